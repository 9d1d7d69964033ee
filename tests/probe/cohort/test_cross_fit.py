"""Cross-fitted heads: as scikit-learn's, and blind to what they are tested on."""

import functools

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_tools.errors import InputError
from fmrifm.probe.cohort.confound_removal import components, impute
from fmrifm.probe.cohort.cross_fit import STRENGTHS, Row, cross_fit, permuted_scores
from fmrifm.probe.cohort.folds import inner_folds, make_folds
from fmrifm.probe.cohort.scores import Truth
from fmrifm.probe.heads.ridge import ALPHA_GRID

GROUPS = np.array([f"toy/{g:02d}" for g in range(36)])


def asked(labels, groups, n_classes, n_inner):
    """What is to be predicted; 0 classes for numbers."""
    return Truth(labels, np.arange(n_classes) if n_classes else None, groups, n_inner)


def draw(width, n_classes, effect=1.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(36) % n_classes
    x_SxD = rng.normal(size=(36, width)).astype(np.float32) * 3 + 5
    x_SxD[:, :4] += 3 * effect * (labels[:, None] == np.arange(4))
    return x_SxD, labels


@pytest.mark.parametrize("width, n_classes", [(6, 2), (6, 3), (400, 2), (400, 3)])
def test_logistic_is_scikit_learns_grid_search_within_each_fold(width, n_classes):
    x_SxD, labels = draw(width, n_classes)
    truth = asked(labels, GROUPS, n_classes, 4)
    folds = make_folds("kfold", labels, GROUPS, n_folds=3)
    values, strengths = cross_fit(x_SxD, truth, folds, seed=7)
    assert np.isfinite(values).all() and np.allclose(values.sum(1), 1, atol=1e-5)
    for k, fold in enumerate(folds):
        # Scaled by the whole training set, as ours: inner folds choose a penalty, no more.
        z_SxD = StandardScaler().fit(x_SxD[fold.train]).transform(x_SxD)
        inner = inner_folds(fold.train, labels, GROUPS, 4, 7 + k)
        parts = [
            (np.searchsorted(fold.train, p.train), np.searchsorted(fold.train, p.test))
            for p in inner
        ]
        model = LogisticRegression(class_weight="balanced", max_iter=5000, tol=1e-8)
        search = GridSearchCV(model, {"C": STRENGTHS}, cv=parts, scoring="balanced_accuracy")
        search.fit(z_SxD[fold.train], labels[fold.train])
        best = search.best_score_
        mine = list(STRENGTHS).index(strengths[k])
        # Scores of strengths are equal more often than not, up to where optimisers stop.
        assert search.cv_results_["mean_test_score"][mine] >= best - 0.05
        search.best_estimator_.set_params(C=strengths[k]).fit(z_SxD[fold.train], labels[fold.train])
        expected = search.predict_proba(z_SxD[fold.test])
        np.testing.assert_allclose(values[fold.test], expected, atol=2e-3)


@pytest.mark.parametrize("width", [6, 400])
def test_ridge_is_scikit_learns(width):
    x_SxD, _ = draw(width, 2)
    y_SxK = (x_SxD[:, :2] @ [[1.0, 2.0], [0.5, -1.0]] + 40).astype(np.float32)
    truth = asked(y_SxK, GROUPS, 0, 4)
    folds = make_folds("kfold", y_SxK, GROUPS, n_folds=3)
    values, strengths = cross_fit(x_SxD, truth, folds)
    for k, fold in enumerate(folds):
        model = make_pipeline(StandardScaler(), Ridge(strengths[k]))
        model.fit(x_SxD[fold.train], y_SxK[fold.train])
        np.testing.assert_allclose(values[fold.test], model.predict(x_SxD[fold.test]), rtol=1e-4)
        z_SxD = StandardScaler().fit(x_SxD[fold.train]).transform(x_SxD)
        inner = inner_folds(fold.train, y_SxK, GROUPS, 4, k)
        parts = [
            (np.searchsorted(fold.train, p.train), np.searchsorted(fold.train, p.test))
            for p in inner
        ]
        scores = [
            r2_score(
                y_SxK[fold.train],
                cross_val_predict(Ridge(a), z_SxD[fold.train], y_SxK[fold.train], cv=parts),
            )
            for a in ALPHA_GRID[::-1]
        ]
        assert strengths[k] == pytest.approx(ALPHA_GRID[::-1][int(np.round(scores, 9).argmax())])


@pytest.mark.parametrize("prepare", [(), (impute, functools.partial(components, 5))])
def test_nothing_is_learned_from_the_tested(prepare):
    """Other labels and features of a fold's test samples change none of its predictions."""
    x_SxD, labels = draw(50, 2)
    fold = make_folds("kfold", labels, GROUPS, n_folds=3)[0]
    truth = asked(labels, GROUPS, 2, 4)
    values, strengths = cross_fit(x_SxD, truth, [fold], prepare)
    changed, other = labels.copy(), x_SxD.copy()
    changed[fold.test] = 1 - changed[fold.test]
    other[fold.test[1:]] *= 100
    again, same = cross_fit(other, asked(changed, GROUPS, 2, 4), [fold], prepare)
    assert strengths == same
    np.testing.assert_array_equal(again[fold.test[0]], values[fold.test[0]])
    assert np.isnan(values[fold.train]).all()


def test_hard_cohorts_are_fitted_all_the_same():
    x_SxD, labels = draw(5, 2)
    labels[2::2] = 1  # two people of one class: no inner folds
    labels[0], labels[4] = 0, 0
    groups = np.where(np.arange(36) % 2, "", GROUPS)
    labels, groups, x_SxD = labels[::2], groups[::2], x_SxD[::2]
    folds = make_folds("kfold", labels, groups)
    assert len(folds) == 2
    values, strengths = cross_fit(x_SxD, asked(labels, groups, 2, 5), folds)
    assert np.isfinite(values).all() and strengths == [STRENGTHS[2]] * 2
    # Features that are all the same say nothing.
    values, _ = cross_fit(np.ones((18, 4), np.float32), asked(labels, groups, 2, 5), folds)
    np.testing.assert_allclose(values, 0.5, atol=1e-6)
    np.testing.assert_allclose(asked(labels, groups, 2, 5).typical, [1 / 9, 8 / 9], atol=1e-6)
    x_SxD[3, 1] = np.nan
    with pytest.raises(InputError, match="1 of 18 cohort samples have features that are NaN"):
        cross_fit(x_SxD, asked(labels, groups, 2, 5), folds)


def test_permuted_scores_lie_around_a_guess():
    x_SxD, labels = draw(30, 2, effect=2.0)

    def deal(some):
        return make_folds("kfold", some, GROUPS, n_folds=3)

    truth, row = asked(labels, GROUPS, 2, 3), Row("toy", "logistic", [x_SxD], [], False)
    null = permuted_scores(row, truth, deal, 40, 0)
    assert len(null) == 40 and 0.42 < null.mean() < 0.58 and null.std() > 0.05
    values, _ = cross_fit(x_SxD, truth, deal(labels))
    assert truth.measure(values)["balanced_accuracy"] > null.max()
    again = permuted_scores(row, truth, deal, 40, 0)
    np.testing.assert_array_equal(null, again)
