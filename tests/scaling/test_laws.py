"""Laws are found again, their intervals hold, and the one that extrapolates is chosen."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from data_tools.errors import InputError
from fmrifm.scaling.laws import FLOOR, POWER, choose_law, find_levels, fit_law

PUBLISHED = Path(__file__).with_name("published_points.csv")
N = np.geomspace(4e5, 4e7, 10)


def power(x):
    return (x / 9.0) ** -0.014


def floor(x):
    return 0.75 + (x / 2e3) ** -0.3


def noisy(losses, seed, noise=0.002):
    return losses * np.exp(noise * np.random.default_rng(seed).normal(size=len(losses)))


def fit(x, loss, law, replicates=120):
    return fit_law(x, loss, law, np.random.default_rng(0), replicates)


def published(name):
    rows = [row for row in csv.DictReader(PUBLISHED.open()) if row["set"] == name]
    return np.array([[float(row["frames"]), float(row["loss"])] for row in rows]).T


def inside(interval, value):
    return interval[0] <= value <= interval[1]


def test_a_power_law_is_found_again_within_the_interval_of_students_t():
    loss = noisy(power(N), seed=3)
    found = fit(N, loss, POWER, replicates=1000)
    line = stats.linregress(np.log(N), np.log(loss))
    reach = stats.t.ppf(0.975, len(N) - 2) * line.stderr
    low, high = found.intervals()["b"]
    assert (high - low) / 2 == pytest.approx(reach, rel=0.2)
    assert inside((low, high), -0.014) and inside(found.intervals()["a"], 9.0)
    assert found.E is None and "E" not in found.intervals()


def test_a_law_with_a_floor_is_found_again():
    found = fit(N, noisy(floor(N), seed=1), FLOOR)
    ci = found.intervals()
    assert inside(ci["b"], -0.3) and inside(ci["E"], 0.75) and inside(ci["a"], 2e3)
    assert found.E == pytest.approx(0.75, abs=0.03)
    assert ci["E"][1] - ci["E"][0] < 0.15
    low, high = found.band(N * 4)
    assert np.all((low < floor(N * 4)) & (floor(N * 4) < high))
    np.testing.assert_allclose(found.predict(N), found.E + (N / found.a) ** found.b)


@pytest.mark.parametrize(("law", "truth"), [(POWER, power), (FLOOR, floor)])
def test_without_noise_intervals_are_narrow_and_hold_the_truth(law, truth):
    found = fit(N, truth(N), law)
    b = -0.014 if law == POWER else -0.3
    low, high = found.intervals()["b"]
    assert low < b < high and high - low < 2e-3
    assert found.b == pytest.approx(b, rel=1e-4)


def test_a_floor_that_is_not_there_is_zero():
    found = fit(N, power(N), FLOOR)
    assert found.E == 0 and found.b == pytest.approx(-0.014)
    assert found.intervals()["E"][0] == 0


@pytest.mark.parametrize(("law", "truth"), [(POWER, power), (FLOOR, floor)])
def test_one_run_that_went_wrong_does_not_bend_a_law(law, truth):
    loss = noisy(truth(N), seed=2)
    clean = fit(N, loss, law, replicates=0)
    loss[4] *= 1.06
    found = fit(N, loss, law, replicates=0)
    assert np.abs(np.log(found.predict(N) / clean.predict(N))).max() < 0.003


def test_a_loss_that_grows_has_an_exponent_above_zero():
    found = fit(N, (N / 9.0) ** 0.01, POWER)
    assert found.b == pytest.approx(0.01) and found.intervals()["b"][0] > 0


def test_the_published_points_have_their_published_laws():
    for name, law in (("in_distribution", POWER), ("out_of_distribution", FLOOR)):
        found = choose_law(*published(name), np.random.default_rng(0), replicates=120)
        assert found.best == law
        assert found.errors[law] == min(found.errors.values())
        if law == POWER:
            assert found.fits[POWER].b == pytest.approx(-0.014, abs=5e-4)
            assert inside(found.fits[POWER].intervals()["b"], -0.014)
        else:
            assert 0.75 < found.fits[FLOOR].E < 0.807


@pytest.mark.parametrize(("law", "truth"), [(POWER, power), (FLOOR, floor)])
def test_the_law_that_extrapolates_is_chosen(law, truth):
    chosen = [
        choose_law(N, noisy(truth(N), seed, 0.001), np.random.default_rng(0), 1).best
        for seed in range(6)
    ]
    assert chosen.count(law) >= 5


def test_too_few_levels_are_told_from_enough():
    three = choose_law(N[:3], floor(N[:3]), np.random.default_rng(0), 20)
    assert list(three.fits) == [POWER] and three.errors == {POWER: None}
    assert three.best == POWER and not three.held_out.any()
    four = choose_law(N[:4], floor(N[:4]), np.random.default_rng(0), 20)
    assert four.errors[FLOOR] is None and four.errors[POWER] > 0 and four.best == POWER
    with pytest.raises(InputError, match="three sizes or more, and here are 2"):
        choose_law(N[:2].repeat(4), floor(N[:2]).repeat(4), np.random.default_rng(0))


def test_draws_are_held_out_together():
    x = np.concatenate([N[:6], N[:6] * 1.07])
    found = choose_law(x, noisy(power(x), seed=0), np.random.default_rng(0), 5)
    np.testing.assert_array_equal(found.held_out[:6], found.held_out[6:])
    assert found.held_out.sum() == 4 and found.held_out[[4, 5]].all()


@given(st.lists(st.floats(1, 1e12), min_size=1, max_size=20))
def test_levels_are_in_order_and_narrow(values):
    x = np.array(values)
    levels = find_levels(x)
    assert set(levels) == set(range(levels.max() + 1))
    for level in set(levels):
        same = x[levels == level]
        assert same.max() <= 1.1 * same.min()
        assert np.all(x[levels > level] > 1.1 * same.min())
