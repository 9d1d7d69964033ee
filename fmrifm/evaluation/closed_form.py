"""Linear probes without a training loop: standardise, then logistic regression.

Letters: C samples, D columns, K directions that the samples span.
"""

import numpy as np
from scipy.linalg import eigh
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

C_GRID = np.logspace(-5, 2, 8)
# Beyond this many samples and columns a full decomposition takes hours: the leading directions do.
_MOST_DIRECTIONS = 2000
# Eigenvalues of a Gram matrix below this share of the largest are rounding.
_ROUNDING = 1e-10
_COLUMNS_AT_ONCE = 8192


class SampleSpan(TransformerMixin, BaseEstimator):
    """Rotates wide centred features onto the directions that the training samples span.

    A linear classifier with an L2 penalty has no weight outside of them, so no prediction changes,
    and there are at most as many columns as samples. The directions follow from the samples' Gram
    matrix (C, C), far sooner than from a decomposition of all the columns.
    """

    def fit(self, x_CxD: np.ndarray, y=None) -> "SampleSpan":
        """Finds the directions."""
        gram_CxC = np.zeros((len(x_CxD), len(x_CxD)))
        for first in range(0, x_CxD.shape[1], _COLUMNS_AT_ONCE):
            block = x_CxD[:, first : first + _COLUMNS_AT_ONCE].astype(np.float64)
            gram_CxC += block @ block.T
        values, vectors = eigh(gram_CxC, overwrite_a=True)
        keep = values > values[-1] * _ROUNDING
        weights_CxK = vectors[:, keep] / np.sqrt(values[keep])
        self.directions_DxK_ = x_CxD.T @ weights_CxK.astype(x_CxD.dtype)
        return self

    def transform(self, x_CxD: np.ndarray) -> np.ndarray:
        """(C, K) coordinates along the directions."""
        return x_CxD @ self.directions_DxK_


def fit_logistic(train: tuple, val: tuple, seed: int = 0):
    """L2 logistic regression; C by balanced accuracy on the validation set, the smallest on ties.

    Exact up to 2,000 training samples or columns; of more, features are brought to the leading
    2,000 principal directions by a randomised decomposition.

    Args:
      train, val: (features (C, D), labels (C,)).
      seed: of the randomised decomposition.

    Returns:
      The fitted classifier and its hyperparameters.
    """
    onto_span = make_pipeline(StandardScaler(), _span(*train[0].shape, seed))
    spanned = onto_span.fit_transform(train[0])
    spanned_val = onto_span.transform(val[0])
    best = None
    for c in C_GRID:
        model = LogisticRegression(C=c, max_iter=1000).fit(spanned, train[1])
        score = balanced_accuracy_score(val[1], model.predict(spanned_val))
        if best is None or score > best[0]:
            best = (score, model, {"C": float(c)})
    return make_pipeline(onto_span, best[1]), best[2]


def _span(n_samples: int, n_columns: int, seed: int):
    """What leaves few columns of many standardised ones."""
    if min(n_samples, n_columns) > _MOST_DIRECTIONS:
        # Standardised features are a copy already.
        return PCA(_MOST_DIRECTIONS, svd_solver="randomized", random_state=seed, copy=False)
    return SampleSpan() if n_samples < n_columns else None


def fit_majority(train: tuple):
    """Always the commonest class of the training set."""
    return DummyClassifier(strategy="prior").fit(*train)
