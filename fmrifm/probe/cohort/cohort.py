"""A cohort: one set of labelled samples, who belongs together, and what else is known of them."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from data_tools.errors import InputError
from data_tools.inspect.facts import skipped_runs
from data_tools.overlap import refuse_copies
from data_tools.store.identity import name_people
from data_tools.store.selection import group_subjects
from fmrifm.input.sources import Source, parse_sources
from fmrifm.model.files import ModelFiles
from fmrifm.probe.cohort.confound_removal import Confound, association, read_confounds
from fmrifm.probe.cohort.scores import Repeats, Truth
from fmrifm.probe.features.encode import are_within
from fmrifm.probe.samples.compatibility import check_compatible, clip_length
from fmrifm.probe.samples.samples import Samples, whole_runs
from fmrifm.probe.samples.splits import Splits, label_samples
from fmrifm.probe.scores.permutation import exchange_kind

COHORT = "cohort"  # the one set of its `splits`
_MOST_UNUSED = 2  # times as many clips as have a label are encoded at most
_MOST_LISTED = 200


@dataclasses.dataclass(frozen=True, eq=False)
class Cohort:
    """Samples of one set of stores.

    Attributes:
      splits: the set, called COHORT.
      truth: the labels, and the group of each sample.
      confounds: what is known of the samples.
      left_out: {"who", "why"} of runs and people.
      is_shown: whether reports may show the labels of single people.
    """

    splits: Splits
    truth: Truth
    confounds: list[Confound]
    left_out: list[dict[str, str]]
    is_shown: bool

    @property
    def samples(self) -> Samples:
        return self.splits.samples[COHORT]

    @property
    def sources(self) -> list[Source]:
        return self.splits.sources[COHORT]

    def confound(self, name: str) -> Confound | None:
        """The one of that name, if it is known."""
        return next((c for c in self.confounds if c.name == name), None)


def open_cohort(config: ConfigDict, files: ModelFiles) -> Cohort:
    """The cohort of a config; prints how its stores differ from the model's training data."""
    if not config.data.path:
        raise InputError("A cohort needs a store: set data.path.")
    sources = parse_sources(config.data.path)
    for warning in check_compatible(files, sources, config.data.strict):
        print(warning)
    samples, classes = label_samples(
        {COHORT: sources}, config, clip_length(files), config.data.windows
    )
    some, settings = samples[COHORT], config.confounds
    fields = tuple(dict.fromkeys([*settings.fields, settings.site]))
    target_field = config.target.partition(":")[2].partition(";")[0].rpartition(":")[2]
    fields = tuple(field for field in fields if field not in ("", target_field))
    confounds = read_confounds(sources, some, fields, settings.table, settings.site)
    groups = person_groups(sources, some, config.splits.family)
    left_out = _left_out(sources, some, config.target)
    hidden = {field for source in sources for field in source.store.restricted}
    whole = whole_runs(sources, clip_length(files), config.data.windows)
    # Without labels, unless those of the cohort start with events or have few of the clips.
    few = len(whole.clips) <= _MOST_UNUSED * len(some.clips) and are_within(whole, some)
    splits = Splits({COHORT: sources}, samples, classes, [], whole if few else None)
    return Cohort(
        splits=splits,
        truth=Truth(splits.targets(COHORT), classes, groups, config.splits.inner),
        confounds=confounds,
        left_out=left_out,
        is_shown=target_field not in hidden,
    )


def person_groups(sources: list[Source], samples: Samples, family: str) -> np.ndarray:
    """(S,) str: "dataset/subject", the first of those of one person, or of one family."""
    runs, group = [run for x in sources for run in x.lines], {}
    refuse_copies(sources)
    if not family:
        for (dataset, label), name in sorted(name_people(runs).items()):
            group[f"{dataset}/{label}"] = group.setdefault((dataset, name), f"{dataset}/{label}")
    for members in group_subjects(runs, family) if family else ():
        names = [f"{dataset}/{subject}" for dataset, subject in members]
        group |= dict.fromkeys(names, names[0])
    return np.array([group[subject] for subject in samples.subjects.tolist()])


def _left_out(sources: list[Source], samples: Samples, target: str) -> list[dict[str, str]]:
    told, there = [], set(samples.subjects.tolist())
    for path, store in {source.store.path: source.store for source in sources}.items():
        told += [
            {"who": run["key"] or Path(run["path"]).name, "why": f"not converted: {run['reason']}"}
            for run in skipped_runs(store)
        ]
        chosen = {int(r) for x in sources if x.store.path == path for r in x.runs}
        told += [
            {"who": run["key"], "why": "not chosen by data.path"}
            for r, run in enumerate(store.runs)
            if r not in chosen
        ]
    subjects = {f"{run['dataset']}/{run['subject']}" for x in sources for run in x.lines}
    told += [
        {"who": subject.strip("/"), "why": f"no value of {target}"}
        for subject in sorted(subjects - there)
    ]
    if samples.n_unlabelled and not subjects - there:
        told.append({"who": f"{samples.n_unlabelled} samples", "why": f"no value of {target}"})
    if len(told) > _MOST_LISTED:
        rest = len(told) - _MOST_LISTED
        told = [*told[:_MOST_LISTED], {"who": f"{rest:,} more", "why": "for the same reasons"}]
    return told


def describe(confound: Confound, cohort: Cohort) -> dict[str, Any]:
    """A confound of all samples and of each class.

    Returns:
      {"name", "label", "p", "groups": {"all" or class: {"mean", "std", "unknown"} or {"counts"}}};
      p is of whether it goes with the label, None where that is no matter of people. There are no
      groups of what must not be shown.
    """
    labels, classes = cohort.samples.labels, cohort.truth.classes
    parts = {"all": np.ones(len(labels), bool)}
    if classes is not None:
        parts |= {name: labels == name for name in classes.tolist()}
    subjects = cohort.samples.subjects
    is_trait = exchange_kind(cohort.splits.targets(COHORT), subjects) == "across"
    return {
        "name": confound.name,
        "label": confound.label,
        "p": association(confound, labels, subjects) if is_trait else None,
        "groups": {name: _summary(confound, rows) for name, rows in parts.items()}
        if confound.is_shown
        else {},
    }


def _summary(confound: Confound, rows: np.ndarray) -> dict[str, Any]:
    values = confound.values[rows]
    if not confound.is_number:
        return {"counts": dict(Counter(values.tolist()))}
    known = values[~np.isnan(values)]
    return {
        "mean": float(known.mean()) if len(known) else None,
        "std": float(known.std()) if len(known) else None,
        "unknown": int(np.isnan(values).sum()),
    }


def list_people(cohort: Cohort, repeats: Repeats) -> list[dict[str, Any]]:
    """What is known of each sample and may be shown, and what a row of the table says of it.

    Returns:
      {"who", "subject", "label", "predicted"} and confounds; of classes also "probability", that of
      the true class, and "right", the share of fits that hit it.
    """
    samples, truth, values_SxK, lines = cohort.samples, cohort.truth, repeats.mean, []
    shown = [confound for confound in cohort.confounds if confound.is_shown]
    for s in range(len(samples)):
        line = {"who": str(samples.keys[s]).strip("/"), "subject": str(samples.subjects[s])}
        if truth.classes is None:
            line |= {"label": samples.labels[s].tolist(), "predicted": values_SxK[s].tolist()}
        else:
            right = repeats.values[:, :, s].argmax(-1) == truth.labels[s]
            line |= {
                "label": str(samples.labels[s]),
                "predicted": str(truth.classes[values_SxK[s].argmax()]),
                "probability": float(values_SxK[s, truth.labels[s]]),
                "right": float(right.mean()),
            }
        lines.append(line | {c.name: _plain(c, s) for c in shown})
    return lines


def _plain(confound: Confound, s: int) -> float | str | None:
    value = confound.values[s]
    if confound.is_number:
        return None if np.isnan(value) else float(value)
    return str(value) or None
