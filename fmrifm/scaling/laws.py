"""Power laws of the loss: L = (N/a)^b, and L = E + (N/a)^b with a floor E that no N goes below.

Both are fitted to log L by robust least squares, as Hoffmann et al. (2022, arXiv 2203.15556,
appendix D.2) do, so that a run which went wrong does not bend the law.

Intervals are percentiles of a parametric bootstrap (Efron and Tibshirani 1993, section 6.5): the
law is fitted again to its own curve with normal noise in log L. Each replicate draws its level of
noise, too, from what n points with p parameters leave open (n - p degrees of freedom). Then
intervals of the law without a floor are those of Student's t, and hold for few points. All x stay
as they were, draws at the same x with them. Of 200 simulated studies each, of 6, 8 and 14 points
over a factor of 14 in N with a floor and noise of 0.2 to 1 %, 92 to 99 % of the intervals of b and
E held the truth; without a floor and with 6 points, 94 % of those of b, and 90 % where a floor was
fitted all the same.
"""

import dataclasses
import functools

import numpy as np
from scipy.optimize import least_squares
from scipy.special import expit, logit

from data_tools.errors import InputError

POWER, FLOOR = "power", "floor"
PARAMETERS = {POWER: 2, FLOOR: 3}
PRECISION = 1e-5  # relative, of a loss: no noise is taken to be smaller
REPLICATES = 500
LEVEL = 0.95
_LARGEST = 690.0  # of the logarithm of a, so that a is a finite number
_STEEPEST, _FLATTEST = 20.0, 30.0  # of -b; of the logit of what a curve falls
_QUICK = {"ftol": 1e-6, "xtol": 1e-6, "max_nfev": 25}  # far below the noise of a replicate
_SOFT, _CLIP = 1.345, 2.5  # noise levels from which on a residual counts less, and no more at all
_SAME = 0.1  # noise levels: fits so near in cost are the same


@dataclasses.dataclass(frozen=True)
class Fit:
    """A law that was fitted; in its curves L = E + exp(c + b log(x / x0)).

    Attributes:
      law: POWER or FLOOR.
      curve: (3,) E, c and b.
      replicates: (R, 3) of the bootstrap.
      x0: the smallest x that was fitted.
      noise: standard deviation of log L around the law.
    """

    law: str
    curve: np.ndarray
    replicates: np.ndarray
    x0: float
    noise: float

    @property
    def a(self) -> float:
        """In L = E + (N/a)^b; held within e^-690 and e^690."""
        return float(np.exp(self._log_a(self.curve)))

    @property
    def b(self) -> float:
        """The exponent; below 0 where more is better."""
        return float(self.curve[2])

    @property
    def E(self) -> float | None:  # noqa: N802
        """The floor; None in a law without one."""
        return float(self.curve[0]) if self.law == FLOOR else None

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals of a, b and, of a law with a floor, E."""
        log_a = _interval(self._log_a(self.replicates), self._log_a(self.curve))
        found = {
            "a": tuple(float(x) for x in np.exp(log_a)),
            "b": _interval(self.replicates[:, 2], self.b),
        }
        if self.law == FLOOR:
            found["E"] = _interval(self.replicates[:, 0], self.E)
        return found

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(X,) losses."""
        return _losses(self.curve[None], x, self.x0)[0]

    def band(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(X,) lower and (X,) upper ends of 95 % intervals of the law, not of single runs."""
        return _interval(_losses(self.replicates, x, self.x0), self.predict(x))

    def _log_a(self, curves: np.ndarray) -> np.ndarray:
        c, b = curves[..., 1], curves[..., 2]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.clip(np.nan_to_num(np.log(self.x0) - c / b), -_LARGEST, _LARGEST)


def fit_law(
    x: np.ndarray,
    loss: np.ndarray,
    law: str,
    rng: np.random.Generator,
    replicates: int = REPLICATES,
) -> Fit:
    """Fits a law.

    Args:
      x, loss: (n,) positive, with more points than the law has parameters (PARAMETERS).
      replicates: of the bootstrap; 0 for a fit that needs no intervals.
    """
    fitter = _Fitter(np.asarray(x, float), law)
    y = np.log(np.asarray(loss, float))
    curve, scale = fitter.start(y), PRECISION
    for _ in range(3):
        scale = fitter.scale(y, curve)
        curve = fitter.refine(y, scale)
    fitter.remember(curve)
    middle = fitter.log_loss(curve)
    freedom = len(y) - PARAMETERS[law]
    residuals = np.clip(y - middle, -_CLIP * scale, _CLIP * scale)
    noise = max(float(np.sqrt((residuals**2).sum() / freedom)), PRECISION)
    again = np.zeros((replicates, 3))
    for one in again:
        share = np.sqrt(freedom / rng.chisquare(freedom))
        drawn = middle + share * noise * rng.normal(size=len(y))
        one[:] = fitter.refine(drawn, share * scale, **_QUICK)
    return Fit(law, curve, again, fitter.x0, noise)


class _Fitter:
    """Fits of a law to losses at the same x."""

    def __init__(self, x: np.ndarray, law: str):
        self.law, self.x0 = law, float(x.min())
        self.u = np.log(x / self.x0)
        self.pairs = np.nonzero(self.u[:, None] < self.u)
        if law == FLOOR:
            b, share = np.meshgrid(np.geomspace(5e-3, 8, 30), np.geomspace(1e-3, 0.999, 25))
            self.shapes = np.stack([logit(share.ravel()), np.log(b.ravel())], axis=1)
            self.forms = np.stack([self._form(*shape)[0] for shape in self.shapes])

    def remember(self, curve: np.ndarray) -> None:
        """Fits may begin at this curve from now on; replicates lie near the one they are of."""
        if self.law == FLOOR and curve[0] > 0:
            fall = np.exp(curve[1])
            shape = np.array([np.log(fall / curve[0]), np.log(-curve[2])])
            self.shapes = np.vstack([self.shapes, shape])
            self.forms = np.vstack([self.forms, self._form(*shape)[0]])

    def start(self, y: np.ndarray) -> np.ndarray:
        """A first curve that an outlier hardly moves: the median slope of all pairs (Theil-Sen)."""
        i, j = self.pairs
        slope = np.median((y[j] - y[i]) / (self.u[j] - self.u[i]))
        return np.array([0.0, np.median(y - slope * self.u), slope])

    def log_loss(self, curve: np.ndarray) -> np.ndarray:
        """(n,) log L of a curve."""
        return np.log(curve[0] + np.exp(curve[1] + curve[2] * self.u))

    def scale(self, y: np.ndarray, curve: np.ndarray) -> float:
        """Noise level: median of the absolute residuals, without those that p parameters zero."""
        p = PARAMETERS[self.law]
        largest = np.sort(np.abs(y - self.log_loss(curve)))[p - 1 :]
        return max(float(np.median(largest)) / 0.6745, PRECISION)

    def refine(self, y: np.ndarray, scale: float, **effort: float) -> np.ndarray:
        """The robust fit; a law with a floor is one without where the floor makes it no better."""
        ones = np.ones_like(self.u)
        solve = functools.partial(
            least_squares, loss="soft_l1", f_scale=_SOFT * scale, x_scale="jac", **effort
        )
        line = solve(
            lambda p: p[0] + p[1] * self.u - y,
            self.start(y)[1:],
            lambda _: np.stack([ones, self.u], axis=1),
        )
        power = np.array([0.0, *line.x])
        if self.law == POWER:
            return power
        bent = solve(
            lambda p: p[0] + self._form(*p[1:])[0] - y,
            self._guess(y),
            lambda p: np.stack([ones, *self._form(*p[1:])[1:]], axis=1),
        )
        if line.x[1] < 0 and line.cost <= bent.cost + (_SAME * scale) ** 2:
            return power
        height, (share, slope) = bent.x[0], _shape(*bent.x[1:])
        return np.array([np.exp(height) * (1 - share), height + np.log(share), -slope])

    def _guess(self, y: np.ndarray) -> np.ndarray:
        """Parameters of the shape on the grid that is nearest in absolute distance."""
        off = y - self.forms
        height = np.median(off, axis=1)
        best = np.abs(off - height[:, None]).sum(axis=1).argmin()
        return np.array([height[best], *self.shapes[best]])

    def _form(self, share: float, slope: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """log L of a curve that begins at 1, of which a share can fall; and its derivatives.

        The share is given by its logit and the slope by its logarithm: then E lies between 0 and
        the curve and b is below 0, whatever the optimizer tries.
        """
        s, b = _shape(share, slope)
        fallen = np.exp(-b * self.u)
        level = 1 - s + s * fallen
        by_share = s * (1 - s) * (fallen - 1) / level
        by_slope = -s * fallen * self.u * b / level
        return np.log(level), by_share, by_slope


def _shape(share: float, slope: float) -> tuple[float, float]:
    """The share that can fall and the exponent, from unbounded parameters, see `_form`."""
    bounded = np.clip(share, -_FLATTEST, _FLATTEST)
    return float(expit(bounded)), float(np.exp(min(slope, np.log(_STEEPEST))))


def _losses(curves: np.ndarray, x: np.ndarray, x0: float) -> np.ndarray:
    """(R, X) losses of (R, 3) curves."""
    E, c, b = curves.T[..., None]
    return E + np.exp(np.clip(c + b * np.log(np.asarray(x, float) / x0), -_LARGEST, _LARGEST))


def _interval(values: np.ndarray, estimate: float | np.ndarray) -> tuple:
    """Percentiles over the replicates, (R,) or (R, X), with the estimate between them."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return np.minimum(low, estimate), np.maximum(high, estimate)


FEWEST = {POWER: 3, FLOOR: 4}  # levels of x for a fit
_SAME_LEVEL = 1.1


@dataclasses.dataclass(frozen=True)
class Choice:
    """Fits to the same points.

    Attributes:
      fits: by law; without a floor where there are too few levels for it.
      errors: by law, of predicting larger runs from smaller: RMS of log L; None where too few.
      best: the law with the smaller error; the one without a floor where that cannot be told.
      held_out: (n,) bool, points that were predicted.
    """

    fits: dict[str, Fit]
    errors: dict[str, float | None]
    best: str
    held_out: np.ndarray


def find_levels(x: np.ndarray) -> np.ndarray:
    """(n,) index of each value's level, from the smallest on.

    What lies within 10 % of the smallest of its level belongs to it: draws of data of about one
    size, or budgets that differ since steps are whole numbers.
    """
    levels, first, level = np.zeros(len(x), int), -np.inf, -1
    for i in np.argsort(x, kind="stable"):
        if x[i] > _SAME_LEVEL * first:
            first, level = x[i], level + 1
        levels[i] = level
    return levels


def choose_law(
    x: np.ndarray, loss: np.ndarray, rng: np.random.Generator, replicates: int = REPLICATES
) -> Choice:
    """Fits both laws and chooses one.

    Args:
      x, loss: (n,) positive.
    """
    x, loss = np.asarray(x, float), np.asarray(loss, float)
    levels = find_levels(x)
    count = int(levels.max(initial=-1)) + 1
    if count < FEWEST[POWER]:
        raise InputError(f"A law needs three sizes or more, and here are {count}: add runs.")
    laws = [law for law in (POWER, FLOOR) if count >= FEWEST[law]]
    fits = {law: fit_law(x, loss, law, rng, replicates) for law in laws}
    judged = [law for law in laws if count > FEWEST[law]]
    first = max([-(-count // 2), *(FEWEST[law] for law in judged)])
    errors: dict[str, float | None] = dict.fromkeys(laws)
    for law in judged:
        squares = [_error(x, loss, levels < k, law) for k in range(first, count)]
        errors[law] = float(np.sqrt(np.mean(squares)))
    both = FLOOR in judged
    better = both and errors[FLOOR] < errors[POWER] - PRECISION
    return Choice(fits, errors, FLOOR if better else POWER, (levels >= first) & bool(judged))


def _error(x: np.ndarray, loss: np.ndarray, small: np.ndarray, law: str) -> float:
    """Mean square of log residuals of the larger runs."""
    fit = fit_law(x[small], loss[small], law, np.random.default_rng(0), replicates=0)
    return float(np.mean(np.log(fit.predict(x[~small]) / loss[~small]) ** 2))
