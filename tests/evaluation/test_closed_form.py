"""Linear probes in closed form: short cuts change no prediction."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from fmrifm.evaluation import closed_form
from fmrifm.evaluation.closed_form import SampleSpan, fit_logistic


def labelled(n_samples, n_columns, seed):
    """Three classes that differ in some of the columns; one column is constant."""
    labels = np.arange(n_samples) % 3
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_samples, n_columns)).astype(np.float32) * 20 + 3
    patterns = np.random.default_rng(0).normal(size=(3, max(n_columns // 10, 8))) * 20
    features[:, : patterns.shape[1]] += patterns[labels]
    features[:, -1] = 7
    return features, labels


@pytest.mark.parametrize("n_columns", [20, 300])
def test_scores_are_those_of_all_the_columns(n_columns, monkeypatch):
    monkeypatch.setattr(closed_form, "_COLUMNS_AT_ONCE", 128)
    train, val, test = (labelled(n, n_columns, n) for n in (60, 31, 32))
    fitted, hparams = fit_logistic(train, val)
    scaler = StandardScaler().fit(train[0])
    plain = LogisticRegression(C=hparams["C"], max_iter=1000)
    plain.fit(scaler.transform(train[0]), train[1])
    expected = plain.predict_proba(scaler.transform(test[0]))
    np.testing.assert_allclose(fitted.predict_proba(test[0]), expected, atol=2e-3)
    assert (fitted.predict(test[0]) == test[1]).mean() > 0.8
    assert fitted[-1].coef_.shape[1] == min(59, n_columns)  # centred: one direction fewer


def test_a_span_keeps_every_distance():
    x = np.random.default_rng(0).normal(size=(9, 40)).astype(np.float32)
    x[:, :20] *= 1000  # weak directions count as well
    x[:4, :20] = 0
    x -= x.mean(0)
    span = SampleSpan().fit(x)
    assert span.transform(x).shape == (9, 8)
    distances = [np.linalg.norm(y[:, None] - y, axis=-1) for y in (x, span.transform(x))]
    np.testing.assert_allclose(distances[1], distances[0], rtol=1e-3)


def test_large_problems_are_bounded_and_depend_on_the_seed_alone(monkeypatch):
    monkeypatch.setattr(closed_form, "_MOST_DIRECTIONS", 12)
    train, val = labelled(60, 300, 0), labelled(30, 300, 1)
    kept = train[0].copy()
    first, same, other = (fit_logistic(train, val, seed)[0] for seed in (0, 0, 1))
    assert first[-1].coef_.shape == (3, 12)
    np.testing.assert_array_equal(train[0], kept)  # other heads need the features as they are
    scores = [fitted.predict_proba(val[0]) for fitted in (first, same, other)]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])
