"""Taking out of features what confounds explain, by what the training samples say.

Letters: S samples, F of them in a training set, D columns, Q confounds.
"""

import dataclasses
import importlib.util
from collections.abc import Sequence

import numpy as np
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_tools.errors import InputError
from fmrifm.cohort.confounds import Confound, as_columns

REMOVALS = ("none", "regress", "combat")


@dataclasses.dataclass(frozen=True)
class Impute:
    """Unknown values become the median of the training samples."""

    def __call__(self, x_SxD: np.ndarray, train: np.ndarray) -> np.ndarray:
        """(S, D) features."""
        fill = SimpleImputer(strategy="median", keep_empty_features=True)
        return fill.fit(x_SxD[train]).transform(x_SxD)


@dataclasses.dataclass(frozen=True)
class Components:
    """The leading principal components of the standardised training samples.

    Attributes:
      n: how many at most.
    """

    n: int

    def __call__(self, x_SxD: np.ndarray, train: np.ndarray) -> np.ndarray:
        """(S, n or fewer) features."""
        n = min(self.n, len(train), x_SxD.shape[1])
        pca = make_pipeline(StandardScaler(), PCA(n, svd_solver="full"))
        return pca.fit(x_SxD[train]).transform(x_SxD)


@dataclasses.dataclass(frozen=True, eq=False)
class Regress:
    """Features less what a linear regression on the confounds says of them.

    Attributes:
      confounds_SxQ: NaN where unknown.
    """

    confounds_SxQ: np.ndarray

    def __call__(self, x_SxD: np.ndarray, train: np.ndarray) -> np.ndarray:
        """(S, D) features, around zero.

        Raises:
          InputError: a training set has less than two samples for each column.
        """
        if 2 * self.confounds_SxQ.shape[1] > len(train):
            raise InputError(
                f"{self.confounds_SxQ.shape[1]} columns of confounds are too many to take out by "
                f"{len(train)} samples: choose fewer confounds.fields."
            )
        confounds_SxQ = Impute()(self.confounds_SxQ, train)
        model = make_pipeline(StandardScaler(), LinearRegression())
        model.fit(confounds_SxQ[train], x_SxD[train])
        return (x_SxD - model.predict(confounds_SxQ)).astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class ComBat:
    """Features without the mean and the spread of their site (Johnson et al., Biostatistics 2007).

    By the package combatlearn, fitted on the training samples; labels are never shown to it.

    Attributes:
      sites: (S,) str.
    """

    sites: np.ndarray

    def __call__(self, x_SxD: np.ndarray, train: np.ndarray) -> np.ndarray:
        """(S, D) features.

        Raises:
          InputError: a training set has fewer than two samples of a site.
        """
        import pandas
        from combatlearn import ComBat as Harmonizer

        names, counts = np.unique(self.sites[train], return_counts=True)
        if strange := sorted(set(self.sites.tolist()) - set(names[counts > 1].tolist())):
            raise InputError(
                f"ComBat cannot learn of site '{strange[0]}', of which a training set has fewer "
                "than two samples: set confounds.remove=regress, or leave that site out."
            )
        table = pandas.DataFrame(x_SxD)
        harmonizer = Harmonizer(pandas.Series(self.sites)).fit(table.iloc[train])
        return np.asarray(harmonizer.transform(table), np.float32)


def make_removal(kind: str, confounds: Sequence[Confound], site: str) -> list:
    """The steps of a removal.

    Args:
      kind: of REMOVALS.
      confounds: all that are known.
      site: which of them is the site.

    Raises:
      InputError: there is nothing to take out, or what takes it out is not installed.
    """
    varying = {confound.name: confound for confound in confounds if confound.varies}
    if kind == "none":
        return []
    if kind == "regress":
        if not varying:
            raise InputError("No confound is known that varies: set confounds.remove=none.")
        return [Regress(as_columns(list(varying.values())))]
    if site not in varying:
        raise InputError(
            f"ComBat needs sites, and the field '{site}' does not tell them: set confounds.site, "
            "or confounds.remove=regress."
        )
    if importlib.util.find_spec("combatlearn") is None:
        raise InputError("ComBat needs the package combatlearn: pip install '.[combat]'.")
    return [ComBat(varying[site].values.astype(str))]
