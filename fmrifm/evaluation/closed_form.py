"""Linear probes without a training loop: standardise, then logistic regression."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

C_GRID = np.logspace(-5, 2, 8)
# Beyond this many samples and columns a full decomposition takes hours: the leading directions do.
_MOST_DIRECTIONS = 2000


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
    # Only what training samples span can get a weight: a rotation onto it changes no prediction
    # and leaves as many columns as samples, where features are tokens side by side.
    if min(train[0].shape) > _MOST_DIRECTIONS:
        span = PCA(_MOST_DIRECTIONS, svd_solver="randomized", random_state=seed)
    else:
        span = PCA(svd_solver="full")
    onto_span = make_pipeline(StandardScaler(), span)
    spanned = onto_span.fit_transform(train[0])
    spanned_val = onto_span.transform(val[0])
    best = None
    for c in C_GRID:
        model = LogisticRegression(C=c, max_iter=1000).fit(spanned, train[1])
        score = balanced_accuracy_score(val[1], model.predict(spanned_val))
        if best is None or score > best[0]:
            best = (score, model, {"C": float(c)})
    return make_pipeline(onto_span, best[1]), best[2]


def fit_majority(train: tuple):
    """Always the commonest class of the training set."""
    return DummyClassifier(strategy="prior").fit(*train)
