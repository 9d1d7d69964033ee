"""Probes in closed form are scikit-learn's models: short cuts change no prediction."""

import warnings
from functools import partial

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit, train_test_split
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_tools.errors import InputError
from fmrifm.probe.heads import knn as neighbors
from fmrifm.probe.heads import logistic as closed_form
from fmrifm.probe.heads import ridge
from fmrifm.probe.heads.knn import fit_knn
from fmrifm.probe.heads.logistic import fit_logistic, random_splits, typical_values
from fmrifm.probe.heads.ridge import fit_ridge
from fmrifm.probe.heads.settings import LogisticSettings


def labelled(n_samples, n_columns, seed, n_classes=3, effect=8):
    """Classes that differ in some of the columns; one column is constant."""
    labels = np.arange(n_samples) % n_classes
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_samples, n_columns)).astype(np.float32) * 20 + 3
    patterns = np.random.default_rng(0).normal(size=(n_classes, max(n_columns // 10, 8)))
    features[:, : patterns.shape[1]] += effect * patterns[labels]
    features[:, -1] = 7
    return features, labels


def regressed(n_samples, n_columns, seed):
    """Three targets that follow from the first columns."""
    features = labelled(n_samples, n_columns, seed)[0]
    weights = np.random.default_rng(0).normal(size=(8, 3))
    noise = np.random.default_rng(seed).normal(size=(n_samples, 3)) * 40
    return features, (features[:, :8] @ weights + noise + 100).astype(np.float32)


@pytest.fixture(autouse=True)
def several_blocks_of_columns(monkeypatch):
    monkeypatch.setattr(ridge, "_COLUMNS_AT_ONCE", 128)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("n_columns", [20, 300])
def test_logistic_is_the_grid_search_of_a_plain_pipeline(n_columns, n_classes, seed):
    train, val, test = (labelled(n, n_columns, n, n_classes) for n in (90, 37, 60))
    fitted, hparams = fit_logistic(train, val, seed)
    plain = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        {"logisticregression__C": np.logspace(-4, 4, 10)},
        cv=StratifiedShuffleSplit(5, test_size=37, random_state=seed),
        scoring="balanced_accuracy",
    )
    plain.fit(*(np.concatenate(parts) for parts in zip(train, val, strict=True)))
    assert hparams == {
        "C": plain.best_params_["logisticregression__C"],
        "chosen_on": "random_splits",
    }
    expected = plain.predict_proba(test[0])
    values = fitted.predict_values(test[0])
    np.testing.assert_allclose(values, expected, atol=2e-3)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values.argmax(1), plain.predict(test[0]))
    assert (values.argmax(1) == test[1]).mean() > 1 / n_classes + 0.1


def brainmarks(x, labels, share, seed, weight):
    """The fit of the public program, whose defaults are those of scikit-learn."""
    state = np.random.RandomState(seed)
    cv = StratifiedShuffleSplit(5, test_size=share, random_state=state.randint(1000, 10000))
    model = LogisticRegressionCV(
        Cs=10, cv=cv, scoring="balanced_accuracy", max_iter=1000, class_weight=weight
    )
    return make_pipeline(StandardScaler(), model).fit(x, labels)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("n_columns, weight", [(20, None), (20, "balanced"), (120, "balanced")])
def test_the_protocol_of_brainmarks_repeats_its_fits(n_columns, weight):
    x, labels = labelled(99, n_columns, 0, effect=12)
    x, labels = (some[np.r_[0:99:3, 1:99:3, 2:99:6]] for some in (x, labels))  # a class is rarer
    order = np.random.default_rng(1).permutation(len(labels))
    x, labels = x[order], labels[order]
    settings = LogisticSettings(weight or "none", "brainmarks")
    train, val = ((x[rows], labels[rows]) for rows in (slice(40), slice(40, 61)))
    fitted, hparams = fit_logistic(train, val, 4466, settings)
    plain = brainmarks(x[:61], labels[:61], 21 / 61, 4466, weight)
    assert hparams["C"] == pytest.approx(np.ravel(plain[-1].C_)[0])
    values, expected = fitted.predict_values(x[61:]), plain.predict_proba(x[61:])
    np.testing.assert_allclose(values, expected, atol=1e-6)
    scores = []
    for trial in (1, 2):
        some = train_test_split(x, labels, train_size=61, stratify=labels, random_state=7 + trial)
        plain = brainmarks(some[0], some[2], 21 / 61, 7, weight)
        scores.append((plain.predict(some[1]) == some[3]).mean())
    found = random_splits(x, labels, 40, 21, 22, n=2, seed=7, settings=settings)
    assert found["accuracy"]["mean"] == pytest.approx(np.mean(scores))


def test_balanced_weights_are_those_of_scikit_learn():
    x, labels = labelled(90, 20, 0, effect=4)
    labels[:60] = 0
    train, val = ((x[k::2], labels[k::2]) for k in range(2))
    fitted, hparams = fit_logistic(train, val, 0, LogisticSettings("balanced"))
    plain = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=hparams["C"], class_weight="balanced", max_iter=1000),
    ).fit(*(np.concatenate(parts) for parts in zip(train, val, strict=True)))
    np.testing.assert_allclose(fitted.predict_values(x), plain.predict_proba(x), atol=2e-3)
    with pytest.raises(InputError, match="class_weight='even' is unknown: choose one of none"):
        LogisticSettings("even")


@pytest.mark.parametrize("seed", [3, 4])
def test_every_c_is_scored_as_in_the_grid_search(seed, monkeypatch):
    """Not only the best: standardisation and span belong to each split.

    Exactly so where both optimisers are brought to the optimum: at the usual tolerance, and of a
    large C, one sample at a border may fall on either side of it.
    """
    exact = partial(LogisticRegression, tol=1e-8)
    grid, seen, in_threads = np.logspace(-4, 0, 5), [], closed_form._in_threads
    monkeypatch.setattr(closed_form, "LogisticRegression", exact)
    monkeypatch.setattr(closed_form, "C_GRID", grid)
    monkeypatch.setattr(
        closed_form, "_in_threads", lambda *a: seen.append(in_threads(*a)) or seen[-1]
    )
    train, val = labelled(60, 200, 0, effect=3), labelled(31, 200, 1, effect=3)
    fit_logistic(train, val, seed)
    x, labels = (np.concatenate(parts) for parts in zip(train, val, strict=True))
    plain = GridSearchCV(
        make_pipeline(StandardScaler(), exact(max_iter=1000)),
        {"logisticregression__C": grid},
        cv=StratifiedShuffleSplit(5, test_size=31, random_state=seed),
        scoring="balanced_accuracy",
    ).fit(x.astype(np.float64), labels)
    expected = [plain.cv_results_[f"split{k}_test_score"] for k in range(5)]
    np.testing.assert_allclose(seen[0], expected, atol=1e-9)


def test_filters_of_warnings_stay_as_they_are():
    train, val = labelled(40, 20, 0), labelled(20, 20, 1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        fit_logistic(train, val)
        random_splits(*labelled(60, 20, 0), 30, 10, 20, n=2)
        assert warnings.filters == before
    assert not [x for x in told if issubclass(x.category, ConvergenceWarning)]


def test_the_smallest_c_wins_a_tie():
    train, val = labelled(60, 20, 0, effect=1000), labelled(30, 20, 1, effect=1000)
    assert fit_logistic(train, val)[1]["C"] == 1e-4


def test_a_class_of_one_sample_has_c_chosen_on_the_validation_set():
    (x, labels), val = labelled(60, 200, 0), labelled(31, 200, 1)
    labels = labels.copy()
    labels[0] = 3
    fitted, hparams = fit_logistic((x, labels), val)
    assert hparams["chosen_on"] == "validation"
    assert fitted.predict_values(val[0]).shape == (31, 4)

    scaler = StandardScaler().fit(x)
    best = None
    for c in np.logspace(-4, 4, 10):
        model = LogisticRegression(C=c, max_iter=1000).fit(scaler.transform(x), labels)
        guesses = model.predict(scaler.transform(val[0]))
        recall = np.mean([(guesses[val[1] == k] == k).mean() for k in range(3)])
        if best is None or recall > best[0] + 1e-9:
            best = recall, c
    assert hparams["C"] == best[1]
    pool = np.concatenate([x, val[0]]), np.concatenate([labels, val[1]])
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=best[1], max_iter=1000))
    expected = plain.fit(*pool).predict_proba(x)
    np.testing.assert_allclose(fitted.predict_values(x), expected, atol=2e-3)


def test_large_problems_are_bounded_and_depend_on_the_seed_alone(monkeypatch):
    monkeypatch.setattr(closed_form, "_MOST_DIRECTIONS", 12)
    train, val = labelled(60, 300, 0), labelled(30, 300, 1)
    kept = train[0].copy()
    first, same, other = (fit_logistic(train, val, seed)[0] for seed in (0, 0, 1))
    assert first.model[-1].coef_.shape == (3, 12)
    np.testing.assert_array_equal(train[0], kept)  # other heads need the features as they are
    scores = [fitted.predict_values(val[0]) for fitted in (first, same, other)]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


def test_random_splits_repeat_the_whole_choice_on_each():
    x, labels = labelled(90, 20, 0)
    found = random_splits(x, labels, 40, 20, 30, n=4, seed=5)
    splits = StratifiedShuffleSplit(4, train_size=60, test_size=30, random_state=5)
    accuracy = []
    for k, (pool, test) in enumerate(splits.split(labels, labels)):
        train, val = ((x[rows], labels[rows]) for rows in (pool[:40], pool[40:]))
        accuracy.append(
            (fit_logistic(train, val, 5 + k)[0].model.predict(x[test]) == labels[test]).mean()
        )
    assert found["n"] == 4
    # Tests of 30 have ten samples of each class.
    for name in ("accuracy", "balanced_accuracy"):
        assert found[name]["mean"] == pytest.approx(np.mean(accuracy))
        assert found[name]["std"] == pytest.approx(np.std(accuracy)) and np.std(accuracy) > 0
    labels[0] = 3
    with pytest.raises(InputError, match="Class '3' has a single sample"):
        random_splits(x, labels, 40, 20, 30)
    with pytest.raises(InputError, match="splits of 3 classes"):
        random_splits(x[1:], labels[1:], 40, 20, 2)


@pytest.mark.parametrize("n_columns", [20, 300])
def test_ridge_is_that_of_scikit_learn(n_columns):
    train, val, test = (regressed(n, n_columns, n) for n in (60, 31, 32))
    fitted, hparams = fit_ridge(train, val)
    best = None
    for alpha in np.logspace(-2, 6, 17):
        model = make_pipeline(StandardScaler(), Ridge(alpha=alpha))
        model.fit(train[0].astype(float), train[1])
        r2 = r2_score(val[1], model.predict(val[0]))
        if best is None or r2 > best[0]:
            best = r2, alpha, model
    assert hparams == {"alpha": best[1]} and 0.01 < best[1] < 1e6
    values = fitted.predict_values(test[0])
    np.testing.assert_allclose(values, best[2].predict(test[0]), rtol=1e-4, atol=1e-3)
    assert values.dtype == np.float32 and values.shape == (32, 3)


def test_ridge_and_neighbors_take_the_smallest_on_ties():
    (x, targets), (val_x, _) = regressed(60, 20, 0), regressed(30, 20, 1)
    train, val = (x, np.full_like(targets, 5)), (val_x, np.full((30, 3), 5, np.float32))
    assert fit_ridge(train, val)[1] == {"alpha": 0.01}
    assert fit_knn(train, val, "regression")[1] == {"k": 1}


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("n_train", [40, 120])
def test_neighbors_are_those_of_scikit_learn(n_train, task, monkeypatch):
    monkeypatch.setattr(neighbors, "_SAMPLES_AT_ONCE", 7)
    sample = labelled if task == "classification" else regressed
    train, val, test = (sample(n, 20, n) for n in (n_train, 31, 32))
    fitted, hparams = fit_knn(train, val, task)
    kind = KNeighborsClassifier if task == "classification" else KNeighborsRegressor
    best = None
    for k in (1, 3, 5, 10, 20, 50):
        if k > n_train:
            continue
        model = make_pipeline(StandardScaler(), kind(k, metric="cosine", weights="distance"))
        guesses = model.fit(*train).predict(val[0])
        if task == "classification":
            score = np.mean([(guesses[val[1] == c] == c).mean() for c in range(3)])
        else:
            score = r2_score(val[1], guesses)
        if best is None or score > best[0] + 1e-9:
            best = score, k, model
    assert hparams == {"k": best[1]} and best[1] > 1
    expected = (best[2].predict_proba if task == "classification" else best[2].predict)(test[0])
    values = fitted.predict_values(test[0])
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    assert values.dtype == np.float32
    if task == "classification":
        np.testing.assert_array_equal(values.argmax(1), best[2].predict(test[0]))


def test_copies_of_a_sample_have_equal_votes_and_few_samples_are_enough():
    x = np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32)
    train = np.concatenate([x[:1], x[:1], x[1:]]), np.array([0, 1, 0, 1, 2])
    fitted, hparams = fit_knn(train, (x, np.array([0, 0, 1, 2])), "classification")
    assert hparams["k"] in (1, 3, 5)
    found = neighbors.dataclasses.replace(fitted, k=5).predict_values(x[:1])
    np.testing.assert_allclose(found, [[0.5, 0.5, 0]], atol=1e-4)


def test_the_majority_and_the_mean_ignore_the_features():
    scores = typical_values(np.array([2, 0, 1, 1, 2]))
    assert scores.argmax() == 1
    np.testing.assert_allclose(scores, [0.2, 0.4, 0.4])
    mean = typical_values(np.arange(10, dtype=np.float32).reshape(5, 2))
    np.testing.assert_array_equal(mean, [4, 5])


@pytest.mark.parametrize(
    "fit", [fit_logistic, lambda *a: fit_knn(*a, "classification")], ids=["logistic", "knn"]
)
def test_classifiers_refuse_what_cannot_be_fitted(fit):
    (x, labels), val = labelled(30, 20, 0), labelled(30, 20, 1)
    fitted, _ = fit((x, labels), val)
    with pytest.raises(InputError, match="All training samples are of class 4"):
        fit((x, np.full_like(labels, 4)), val)
    x[3, 2], x[3, 4], x[9, 5] = np.nan, np.nan, np.inf
    with pytest.raises(InputError, match="2 of 30 training samples"):
        fit((x, labels), val)
    with pytest.raises(InputError, match="2 of 30 validation samples"):
        fit(val, (x, labels))
    with pytest.raises(InputError, match="2 of 30 test samples"):
        fitted.predict_values(x)


@pytest.mark.parametrize(
    "fit", [fit_ridge, lambda *a: fit_knn(*a, "regression")], ids=["ridge", "knn"]
)
def test_regressions_refuse_what_cannot_be_fitted(fit):
    (x, targets), val = regressed(30, 20, 0), regressed(30, 20, 1)
    targets[4, 1] = np.nan
    with pytest.raises(InputError, match="1 of 30 training samples have targets"):
        fit((x, targets), val)
    with pytest.raises(InputError, match="1 of 30 validation samples have targets"):
        fit(val, (x, targets))
    with pytest.raises(InputError, match="two validation samples"):
        fit(val, (val[0][:1], val[1][:1]))
    fitted, _ = fit(val, val)
    x[0, 0] = np.inf
    with pytest.raises(InputError, match="1 of 30 test samples"):
        fitted.predict_values(x)
