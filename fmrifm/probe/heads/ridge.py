"""Ridge regression of several targets, every penalty from one decomposition.

Letters: S samples, F of them that are fitted, V of validation, D columns, R directions, E columns
of targets.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from scipy.linalg import eigh
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler

from data_tools.errors import InputError

ALPHA_GRID = np.logspace(-2, 6, 17)
_COLUMNS_AT_ONCE = 8192


@dataclasses.dataclass(frozen=True)
class Ridge:
    """Standardised features times weights, around the mean of the targets."""

    scaler: StandardScaler
    weights_DxE: np.ndarray
    mean_E: np.ndarray

    def predict_values(self, x_SxD: np.ndarray) -> np.ndarray:
        """(S, E) float32."""
        check_finite(x_SxD, "test")
        z_SxD = self.scaler.transform(x_SxD)
        return (z_SxD @ self.weights_DxE + self.mean_E).astype(np.float32)


def fit_ridge(train: tuple, val: tuple) -> tuple[Ridge, dict]:
    """Ridge regression of standardised features; fitted on the training set.

    alpha has the best r2 on the validation set, mean over the columns of targets, the smallest on
    ties. All alphas come from one eigendecomposition, of samples by samples or columns by columns,
    whichever is smaller.

    Args:
      train, val: (features (S, D) float32, targets (S, E) float32).

    Returns:
      The fitted model, and {"alpha"}.
    """
    check_regression(train, val)
    (x_FxD, y_FxE), n_train = train, len(train[0])
    mean_E = y_FxE.mean(0, dtype=np.float64)
    centred_FxE = y_FxE - mean_E
    scaler = StandardScaler().fit(x_FxD)
    every = np.arange(n_train)
    wide = n_train < x_FxD.shape[1]
    if wide:
        gram_SxF = gram(np.concatenate([x_FxD, val[0]]), every)
        values, vectors = eigh(gram_SxF[every])
        seen_VxR, aims_RxE = gram_SxF[n_train:] @ vectors, vectors.T @ centred_FxE
    else:
        z_FxD = scaler.transform(x_FxD).astype(np.float64)
        values, vectors = eigh(z_FxD.T @ z_FxD)
        seen_VxR, aims_RxE = scaler.transform(val[0]) @ vectors, vectors.T @ (z_FxD.T @ centred_FxE)
    values = np.maximum(values, 0)[:, None]  # below zero is rounding
    scores = [r2_score(val[1], seen_VxR @ (aims_RxE / (values + a)) + mean_E) for a in ALPHA_GRID]
    alpha = float(ALPHA_GRID[np.round(scores, 9).argmax()])
    weights = vectors @ (aims_RxE / (values + alpha))
    if wide:  # so far of samples
        weights = np.concatenate([block.T @ weights for block in standard_blocks(x_FxD, every)])
    return Ridge(scaler, weights, mean_E), {"alpha": alpha}


def check_regression(train: tuple, val: tuple) -> None:
    """Raises InputError where no regression can be fitted, or chosen by the validation set."""
    for (x_SxD, y_SxE), name in ((train, "training"), (val, "validation")):
        check_finite(x_SxD, name)
        check_finite(y_SxE, name, "targets")
    if len(val[0]) < 2:
        raise InputError(
            "A regression is chosen by r2, of two validation samples or more: add some."
        )


def check_finite(x_SxD: np.ndarray, name: str, what: str = "features") -> None:
    """Raises InputError, which counts the samples, where values are NaN or infinite."""
    strange = int((~np.isfinite(x_SxD).all(1)).sum())
    if strange:
        raise InputError(
            f"{strange:,} of {len(x_SxD):,} {name} samples have {what} that are NaN or infinite: "
            "leave these samples out, or mend what they are made from."
        )


def standard_blocks(x_SxD: np.ndarray, fit: np.ndarray) -> Iterator[np.ndarray]:
    """Yields blocks of columns, standardised in float64 by the rows `fit`.

    Wide features are never copied as a whole.
    """
    for first in range(0, x_SxD.shape[1], _COLUMNS_AT_ONCE):
        block = x_SxD[:, first : first + _COLUMNS_AT_ONCE].astype(np.float64)
        yield StandardScaler(copy=False).fit(block[fit]).transform(block)


def gram(x_SxD: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """(S, F) float64 products of all rows with the rows `fit`, which standardise them."""
    return sum(block @ block[fit].T for block in standard_blocks(x_SxD, fit))
