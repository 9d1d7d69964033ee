"""k-nearest neighbours by cosine similarity, for classes and for targets.

Letters: S samples asked for, F fitted, N nearest of them, D columns, K classes or columns of
targets.
"""

import dataclasses

import numpy as np
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler, normalize

from data_tools.errors import InputError
from fmrifm.probe.heads.logistic import balanced_accuracy
from fmrifm.probe.heads.ridge import check_finite, check_regression

K_GRID = (1, 3, 5, 10, 20, 50)
# Samples nearer than this differ by rounding: all of them count the same.
_NEAREST = 1e-6
_SAMPLES_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """The mean of the k nearest training samples, weighted by the inverse of their distance.

    Attributes:
      unit_FxD: standardised training features of length 1.
      values_FxK: their classes one-hot, or targets.
      k: how many.
    """

    scaler: StandardScaler
    unit_FxD: np.ndarray
    values_FxK: np.ndarray
    k: int

    def predict_values(self, x_SxD: np.ndarray) -> np.ndarray:
        """(S, K) float32: probabilities, or values."""
        check_finite(x_SxD, "test")
        return _weighted(*self.nearest(x_SxD), self.values_FxK, self.k).astype(np.float32)

    def nearest(self, x_SxD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(S, N) cosine distances of the k nearest, ascending, and their places."""
        found = []
        for first in range(0, len(x_SxD), _SAMPLES_AT_ONCE):
            unit_SxD = normalize(self.scaler.transform(x_SxD[first : first + _SAMPLES_AT_ONCE]))
            distance_SxF = 1 - unit_SxD @ self.unit_FxD.T
            place_SxN = np.argpartition(distance_SxF, self.k - 1, axis=1)[:, : self.k]
            near_SxN = np.take_along_axis(distance_SxF, place_SxN, 1)
            order_SxN = near_SxN.argsort(1, kind="stable")
            found.append([np.take_along_axis(a, order_SxN, 1) for a in (near_SxN, place_SxN)])
        near_SxN, place_SxN = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return near_SxN, place_SxN


def fit_knn(train: tuple, val: tuple, task: str) -> tuple[Neighbors, dict]:
    """k-nearest neighbours of standardised features, by cosine distance, of the training set.

    Neighbours weigh by the inverse of their distance, so that probabilities rank samples even
    where few neighbours are asked. k is chosen on the validation set by balanced accuracy or mean
    r2, the smallest on ties.

    Args:
      train, val: (features (S, D) float32, labels (S,) int or targets (S, E) float32).

    Returns:
      The fitted model, and {"k"}.
    """
    (x_FxD, y_F), (val_VxD, val_V) = train, val
    classification = task == "classification"
    if classification:
        check_finite(x_FxD, "training")
        check_finite(val_VxD, "validation")
        if len(np.unique(y_F)) < 2:
            raise InputError(f"All training samples are of class {y_F[0]}: two classes are needed.")
        values_FxK = np.eye(y_F.max() + 1)[y_F]
    else:
        check_regression(train, val)
        values_FxK = y_F.astype(np.float64)

    def score(guess_VxK: np.ndarray) -> float:
        if not classification:
            return r2_score(val_V, guess_VxK)
        return balanced_accuracy(val_V, guess_VxK.argmax(1))

    grid = [k for k in K_GRID if k <= len(x_FxD)]
    scaler = StandardScaler().fit(x_FxD)
    widest = Neighbors(scaler, normalize(scaler.transform(x_FxD)), values_FxK, grid[-1])
    nearest = widest.nearest(val_VxD)
    scores = [score(_weighted(*nearest, values_FxK, k)) for k in grid]
    k = grid[int(np.round(scores, 9).argmax())]
    return dataclasses.replace(widest, k=k), {"k": k}


def _weighted(
    near_SxN: np.ndarray, place_SxN: np.ndarray, values_FxK: np.ndarray, k: int
) -> np.ndarray:
    """(S, K) weighted means of the values of the first k of the nearest."""
    weight_Sxk = 1 / np.maximum(near_SxN[:, :k].astype(np.float64), _NEAREST)
    weight_Sxk /= weight_Sxk.sum(1, keepdims=True)
    values_SxK = np.zeros((len(weight_Sxk), values_FxK.shape[1]))
    for n in range(k):
        values_SxK += weight_Sxk[:, n, None] * values_FxK[place_SxN[:, n]]
    return values_SxK
