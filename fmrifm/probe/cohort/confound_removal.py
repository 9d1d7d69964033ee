"""What is known of samples besides their brains: motion, noise, length, TR, site, age, sex.

What tells the groups of a study apart without any image may be all that a model has seen. Letters:
S samples, Q columns.
"""

import dataclasses
import functools
import importlib.util
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_tools.errors import InputError
from data_tools.readers.tables import to_number
from data_tools.store.selection import is_known
from data_tools.timeseries.quality import QC_MEASURES
from fmrifm.input.sources import Source
from fmrifm.probe.samples.labels import Target, parse_target
from fmrifm.probe.samples.samples import Samples
from fmrifm.probe.samples.splits import join_table

MOTION = "fd_mean"
_CATEGORIES = frozenset({"sex", "site"})  # whatever their values look like
_LABELS = {name: measure.label for name, measure in QC_MEASURES.items()}
_LABELS |= {"n_frames": "frames", "source_tr": "TR of the scan (s)", "age": "age (years)"}
_MOST_CATEGORIES = 20


@dataclasses.dataclass(frozen=True, eq=False)
class Confound:
    """One thing that is known of every sample.

    Attributes:
      values: (S,) float, NaN where it is not known; or (S,) str, "" where it is not.
      is_shown: whether reports may show it of single people.
    """

    name: str
    values: np.ndarray
    is_shown: bool = True

    @property
    def label(self) -> str:
        return _LABELS.get(self.name, self.name.replace("_", " "))

    @property
    def is_number(self) -> bool:
        return self.values.dtype.kind == "f"

    @property
    def varies(self) -> bool:
        known = self.values[~np.isnan(self.values)] if self.is_number else self.values
        return len(np.unique(known)) > 1


def read_confounds(
    sources: list[Source],
    samples: Samples,
    fields: Sequence[str],
    table: str = "",
    site: str = "site",
) -> list[Confound]:
    """What the run tables, and perhaps a spreadsheet, tell of samples; means over their runs.

    Args:
      fields: of the run table, of its quality figures, or columns of the spreadsheet.
      table: a CSV or TSV file with a column subject (or participant_id), perhaps session; it goes
        before the run table.
      site: the field that tells it, whose numbers are names.

    Returns:
      Those that are known of some sample.
    """
    columns = _read_table(table, fields, sources) if table else {}
    categories = _CATEGORIES | {site}
    clips, runs = samples.clips, []  # the lines of the run table of each sample, each once
    for first, last in zip(samples.first_S1[:-1], samples.first_S1[1:], strict=True):
        pairs = zip(clips.source[first:last].tolist(), clips.run[first:last].tolist(), strict=True)
        runs.append([sources[s].store.runs[r] for s, r in dict.fromkeys(pairs)])
    hidden = {field for source in sources for field in source.store.restricted}
    found = []
    for field in fields:
        values = [[_value(run, field, columns.get(field)) for run in some] for some in runs]
        values = [list(filter(is_known, some)) for some in values]
        if not any(values):
            continue
        shown = field not in hidden
        if field not in categories and all(_is_number(v) for some in values for v in some):
            numbers = [np.mean([float(v) for v in some]) if some else np.nan for some in values]
            found.append(Confound(field, np.array(numbers, float), shown))
            continue
        texts = ["+".join(sorted({str(v) for v in some})) for some in values]
        if len(set(texts)) > _MOST_CATEGORIES and field not in categories:
            raise InputError(
                f"The confound '{field}' has {len(set(texts))} different values that are no "
                "numbers: leave it out of confounds.fields."
            )
        found.append(Confound(field, np.array(texts), shown))
    return found


def as_columns(confounds: Sequence[Confound]) -> np.ndarray:
    """(S, Q) float32: numbers as they are, NaN where unknown; one column for each category."""
    columns = []
    for confound in confounds:
        if confound.is_number:
            columns.append(confound.values)
        else:
            names = np.unique(confound.values)
            columns += [confound.values == name for name in names[:: 1 if len(names) > 2 else 2]]
    return np.stack(columns, 1).astype(np.float32)


def association(confound: Confound, labels: np.ndarray, groups: np.ndarray) -> float | None:
    """p of whether a confound goes with the label, a row for each group (its first sample).

    Kruskal-Wallis for a number against classes, chi-squared for a category against classes,
    Spearman for two numbers, Kruskal-Wallis for a category against numbers. None where there is
    nothing to test.
    """
    first = np.unique(groups, return_index=True)[1]
    values, labels = confound.values[first], labels[first]
    known = ~np.isnan(values) if confound.is_number else values != ""
    values, labels = values[known], labels[known]
    if len(np.unique(values)) < 2 or len(np.unique(labels, axis=0)) < 2:
        return None
    if labels.ndim == 2:
        labels = labels[:, 0]
        if confound.is_number:
            return float(stats.spearmanr(values, labels).pvalue)
        values, labels = labels, values
    elif not confound.is_number:
        counts = stats.contingency.crosstab(labels, values).count
        return float(stats.chi2_contingency(counts).pvalue)
    return float(stats.kruskal(*(values[labels == k] for k in np.unique(labels))).pvalue)


def _read_table(table: str, fields: Sequence[str], sources: list[Source]) -> dict[str, Target]:
    """The columns of a spreadsheet that are among the fields."""
    found, problem = {}, None
    for field in fields:
        try:
            found[field] = parse_target(f"table:{table}:{field}")
        except InputError as error:
            problem = error
    if not found:
        raise problem
    # What is not known of some people does no harm, but a table of nobody is the wrong one.
    people = join_table(sources, next(iter(found.values())), most_lost=0.99).people
    return {name: dataclasses.replace(x, people=people) for name, x in found.items()}


def _value(run: dict[str, Any], field: str, column: Target | None) -> Any:
    """A field of a line of the run table; a column of a spreadsheet goes before it."""
    if column is not None and (label := column.label(run)):
        return label
    if field == "source_tr":
        return run.get("source_tr", run.get("tr"))
    return run.get(field, (run.get("qc") or {}).get(field))


def _is_number(value: Any) -> bool:
    """Whether a value is a number and no code such as 007."""
    return to_number(str(value)) is not None and not re.match("[+-]?0[0-9]", str(value))


REMOVALS = ("none", "regress", "combat")


def impute(x_SxD: np.ndarray, train: np.ndarray) -> np.ndarray:
    """(S, D) features: unknown values become the median of the training samples."""
    fill = SimpleImputer(strategy="median", keep_empty_features=True)
    return fill.fit(x_SxD[train]).transform(x_SxD)


def components(n: int, x_SxD: np.ndarray, train: np.ndarray) -> np.ndarray:
    """(S, n or fewer) leading principal components of the standardised training samples."""
    n = min(n, len(train), x_SxD.shape[1])
    pca = make_pipeline(StandardScaler(), PCA(n, svd_solver="full"))
    return pca.fit(x_SxD[train]).transform(x_SxD)


def regress(confounds_SxQ: np.ndarray, x_SxD: np.ndarray, train: np.ndarray) -> np.ndarray:
    """(S, D) features around zero, less what a linear regression on the confounds says of them.

    Args:
      confounds_SxQ: NaN where unknown.
    """
    if 2 * confounds_SxQ.shape[1] > len(train):
        raise InputError(
            f"{confounds_SxQ.shape[1]} columns of confounds are too many to take out by "
            f"{len(train)} samples: choose fewer confounds.fields."
        )
    confounds_SxQ = impute(confounds_SxQ, train)
    model = make_pipeline(StandardScaler(), LinearRegression())
    model.fit(confounds_SxQ[train], x_SxD[train])
    return (x_SxD - model.predict(confounds_SxQ)).astype(np.float32)


def combat(sites: np.ndarray, x_SxD: np.ndarray, train: np.ndarray) -> np.ndarray:
    """(S, D) features without the mean and the spread of their site (S,) str.

    Johnson et al., Biostatistics 2007. By the package combatlearn, fitted on the training samples;
    labels are never shown to it.
    """
    import pandas
    from combatlearn import ComBat

    names, counts = np.unique(sites[train], return_counts=True)
    if strange := sorted(set(sites.tolist()) - set(names[counts > 1].tolist())):
        raise InputError(
            f"ComBat cannot learn of site '{strange[0]}', of which a training set has fewer "
            "than two samples: set confounds.remove=regress, or leave that site out."
        )
    table = pandas.DataFrame(x_SxD)
    harmonizer = ComBat(pandas.Series(sites)).fit(table.iloc[train])
    return np.asarray(harmonizer.transform(table), np.float32)


def make_removal(kind: str, confounds: Sequence[Confound], site: str) -> list:
    """The steps of a removal.

    Args:
      confounds: all that are known.
      site: which of them is the site.
    """
    varying = {confound.name: confound for confound in confounds if confound.varies}
    if kind == "none":
        return []
    if kind == "regress":
        if not varying:
            raise InputError("No confound is known that varies: set confounds.remove=none.")
        return [functools.partial(regress, as_columns(list(varying.values())))]
    if site not in varying:
        raise InputError(
            f"ComBat needs sites, and the field '{site}' does not tell them: set confounds.site, "
            "or confounds.remove=regress."
        )
    if importlib.util.find_spec("combatlearn") is None:
        raise InputError("ComBat needs the package combatlearn: pip install '.[combat]'.")
    return [functools.partial(combat, varying[site].values.astype(str))]
