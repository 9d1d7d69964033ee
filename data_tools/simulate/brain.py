"""Simulated brains: what a group shares, and what is a subject's own.

Networks are smooth, bilateral maps whose time courses are coupled; a subject's own borders and
coupling are its fingerprint, the same in every run. Conditions have smooth activation patterns,
slightly different in every subject. Letters: X vertices (20,484, left then right cortex), K
networks, R sources that networks share, C conditions.
"""

import dataclasses
import functools

import numpy as np
import scipy.sparse
from scipy.spatial import cKDTree

from data_tools.simulate.people import DIAGNOSIS_NAMES, Person, draw_person, subject_rng
from data_tools.simulate.study import Study
from data_tools.spaces.standard_maps import fsaverage5_middle, standard_cortex

N_VERTICES = 10_242  # of one hemisphere of fsaverage5; arrays hold left then right


@functools.cache
def diffusion() -> tuple[scipy.sparse.csr_array, float]:
    """One step of diffusion along the mesh: each vertex takes a mean of itself and its neighbours.

    Neighbours weigh 1 / distance^2. With equal weights the kernel would be as stretched as the
    triangles are, and flat maps would show streaks around the insula, where folding is circular.
    Returns the (20,484 x 20,484) float32 matrix of both hemispheres, which no edge joins, and the
    length in mm that one step adds to the standard deviation of the kernel (in squares, along each
    axis).
    """
    rows, columns, squares, n = [], [], [], 2 * N_VERTICES
    for offset, (points, triangles) in zip((0, N_VERTICES), fsaverage5_middle(), strict=True):
        # Triangles of a closed surface are oriented alike: each edge comes once in each direction.
        edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
        squares.append(((points[edges[:, 0]] - points[edges[:, 1]]) ** 2).sum(1))
        rows.append(edges[:, 0] + offset)
        columns.append(edges[:, 1] + offset)
    row, column, square = (np.concatenate(parts) for parts in (rows, columns, squares))
    degree = np.bincount(row)
    pull = np.bincount(row, 1 / square)
    # A vertex counts as much as one neighbour: it keeps 1 / (degree + 1) of its value.
    weight = degree[row] / (degree[row] + 1) / (square * pull[row])
    moved = np.mean(np.bincount(row, weight * square))
    step = scipy.sparse.coo_array((weight, (row, column)), (n, n))
    step = step + scipy.sparse.diags_array(1 / (degree + 1))
    return step.tocsr().astype(np.float32), float(np.sqrt(moved / 2))


@functools.cache
def mirror() -> np.ndarray:
    """(10,242,) int: for each right vertex the left one at the mirrored place of the folded cortex.

    The registration spheres cannot be used: each hemisphere has its own, and the same coordinates
    lie 16 mm apart on the two. The folded surfaces themselves are close mirror images (sulcal
    depth of matched vertices correlates at 0.97).
    """
    (left, _), (right, _) = fsaverage5_middle()
    return cKDTree(left).query(right * [-1, 1, 1])[1]


def smooth(values_XxK: np.ndarray, fwhm: float) -> np.ndarray:
    """Diffuses values on the 20,484 vertices with a kernel of `fwhm` mm, to the nearest step."""
    step, length = diffusion()
    sigma = fwhm / np.sqrt(8 * np.log(2))
    for _ in range(max(1, round((sigma / length) ** 2))):
        values_XxK = step @ values_XxK
    return values_XxK


def smooth_fields(
    rng: np.random.Generator, n_fields: int, fwhm: float, bilateral: float = 0.0
) -> np.ndarray:
    """(K, 20,484) float32 Gaussian random fields, of mean 0 and deviation 1 over each hemisphere.

    Args:
      rng, n_fields: source of the noise, and number K of fields.
      fwhm: full width at half maximum of the kernel in mm along the surface.
      bilateral: correlation between a place and its mirror image, 0 to 1.
    """
    noise = rng.standard_normal((2 * N_VERTICES, n_fields), np.float32)
    left, right = _standardise(smooth(noise, fwhm).T.reshape(n_fields, 2, N_VERTICES)).swapaxes(
        0, 1
    )
    # Mirroring smooth fields, not the noise: the match of vertices has gaps and repetitions.
    own = float(np.sqrt(1 - bilateral**2))
    right = _standardise(bilateral * left[:, mirror()] + own * right)
    return np.concatenate([left, right], axis=1)


def _standardise(fields: np.ndarray) -> np.ndarray:
    """Mean 0 and standard deviation 1 over the last axis."""
    fields = fields - fields.mean(-1, keepdims=True)
    return fields / fields.std(-1, keepdims=True)


@functools.cache
def cortex() -> np.ndarray:
    """(20,484,) bool, false on the medial wall."""
    return np.concatenate(standard_cortex("fsaverage5"))


@functools.cache
def mid_surface() -> np.ndarray:
    """(20,484, 3) places of the vertices in mm, half way through the cortex."""
    return np.concatenate([points for points, _ in fsaverage5_middle()])


N_NETWORKS, N_SOURCES, N_BACKGROUND = 14, 3, 96


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """What all subjects share.

    Attributes:
      network_fields: (K, X) fields whose competition makes the network maps.
      loadings: (K, R) weights of shared sources in the networks' time courses.
      trait_directions: (2, K, R) how age and sex move the loadings.
      diagnosis_direction: (K, R) how a diagnosis with an effect moves them.
      pattern_fields: (C, X) fields whose peaks are the activation patterns.
      background: (N_BACKGROUND, X) smooth fields of unit norm at each vertex.
      global_gain: (X,) weight of the global signal.
      noise_gain: (X,) strength of noise.
      baseline: (X,) mean image in scanner units.
    """

    network_fields: np.ndarray
    loadings: np.ndarray
    trait_directions: np.ndarray
    diagnosis_direction: np.ndarray
    pattern_fields: np.ndarray
    background: np.ndarray
    global_gain: np.ndarray
    noise_gain: np.ndarray
    baseline: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Traits:
    """What a subject's brain does, but for where.

    Attributes:
      mixing: (K, R + K) own weights of shared and private sources in each network, unit rows.
      effect: own strength of evoked responses, around 1.
      delay: seconds by which own responses come late, around 0.
    """

    mixing: np.ndarray
    effect: float
    delay: float


@dataclasses.dataclass(frozen=True, eq=False)
class Subject(Person, Traits):
    """One simulated person, with a brain.

    Attributes:
      networks: (K, X) own network maps, of unit norm at each vertex.
      patterns: (C, X) own activation patterns, near 1 where strongest.
    """

    networks: np.ndarray
    patterns: np.ndarray


@functools.lru_cache(maxsize=1)
def draw_group(study: Study) -> Group:
    """What the subjects of a study share."""
    networks, background = _draw_ongoing(study.seed)
    gains = smooth_fields(study.rng("gains"), 3, fwhm=40, bilateral=0.9)
    common = smooth_fields(study.rng("pattern"), 1, fwhm=24, bilateral=0.8)
    own = [
        smooth_fields(study.rng("pattern", name), 1, fwhm=24, bilateral=0.8)
        for name in study.condition_names
    ]
    return Group(
        network_fields=networks,
        loadings=0.6 * study.rng("loadings").standard_normal((N_NETWORKS, N_SOURCES)),
        trait_directions=study.rng("traits").standard_normal((2, N_NETWORKS, N_SOURCES)),
        diagnosis_direction=study.rng("diagnosis").standard_normal((N_NETWORKS, N_SOURCES)),
        # Conditions share where a task acts at all, as every picture shown lights up vision.
        pattern_fields=_blend(common, np.concatenate(own), 0.7),
        background=background,
        global_gain=np.exp(0.4 * gains[0] - 0.4**2),
        noise_gain=np.exp(0.25 * gains[1] - 0.25**2),
        baseline=10_000 * np.exp(0.15 * gains[2]),
    )


@functools.lru_cache(maxsize=1)
def _draw_ongoing(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Fields of networks and background, which studies of one seed have in common."""
    study = Study(seed=seed)
    background = smooth_fields(study.rng("background"), N_BACKGROUND, fwhm=20, bilateral=0.7)
    background /= np.linalg.norm(background, axis=0)
    return smooth_fields(study.rng("networks"), N_NETWORKS, fwhm=42, bilateral=0.95), background


def draw_traits(study: Study, index: int, rng: np.random.Generator | None = None) -> Traits:
    """The traits of the subject of a given index; cheap beside `draw_subject`.

    `rng` is the subject's own, before its first number; it ends where `draw_subject` goes on.
    """
    group, person = draw_group(study), draw_person(study, index)
    rng = rng or subject_rng(study, index)
    rng.integers(18, 81)  # the age, which `draw_person` has drawn
    effect, delay = float(np.exp(rng.normal(-0.03, 0.25))), float(rng.normal(0.0, 0.4))
    loadings = group.loadings + 0.35 * rng.standard_normal(group.loadings.shape)
    traits = np.array([(person.age - 49) / 18, 1.0 if person.sex == "F" else -1.0])
    loadings += 0.25 * study.trait_effect * np.tensordot(traits, group.trait_directions, 1)
    if study.diagnosis == "effect":
        side = 1.0 if person.diagnosis == DIAGNOSIS_NAMES[1] else -1.0
        loadings += 0.25 * study.diagnosis_effect * side * group.diagnosis_direction
    return Traits(mixing_of(loadings), effect, delay)


@functools.lru_cache(maxsize=1)
def draw_subject(study: Study, index: int) -> Subject:
    """The subject of a given index, from 0."""
    group, rng = draw_group(study), subject_rng(study, index)
    traits = draw_traits(study, index, rng)
    own = smooth_fields(rng, N_NETWORKS, fwhm=28, bilateral=0.7)
    # A stream for each condition: another condition more leaves those before it as they are.
    changes = [
        smooth_fields(study.rng("subject", index, name), 1, fwhm=16, bilateral=0.5)
        for name in study.condition_names
    ]
    return Subject(
        **vars(draw_person(study, index)),
        **vars(traits),
        networks=network_maps(_blend(group.network_fields, own, 0.25)),
        patterns=activation_patterns(_blend(group.pattern_fields, np.concatenate(changes), 0.3)),
    )


def mixing_of(loadings_KxR: np.ndarray) -> np.ndarray:
    """(K, R + K) weights of shared and private sources in the networks; rows of unit norm."""
    mixing = np.concatenate([loadings_KxR, np.eye(len(loadings_KxR))], axis=1)
    return mixing / np.linalg.norm(mixing, axis=1, keepdims=True)


def network_maps(fields_KxX: np.ndarray) -> np.ndarray:
    """(K, X) network maps: fields compete for each vertex (softmax); unit norm at each vertex."""
    maps = np.exp(3.0 * (fields_KxX - fields_KxX.max(0)))
    return maps / np.linalg.norm(maps, axis=0)


def activation_patterns(fields_CxX: np.ndarray) -> np.ndarray:
    """(C, X) activation patterns: the peaks of fields, near 1, and weaker negative troughs."""
    patterns = np.maximum(fields_CxX - 0.8, 0) - 0.4 * np.maximum(-fields_CxX - 1.2, 0)
    return patterns / np.quantile(patterns, 0.99, axis=1, keepdims=True).astype(np.float32)


def _blend(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """Sum of two fields of unit variance, of unit variance, `share` of it from the second."""
    return float(np.sqrt(1 - share)) * first + float(np.sqrt(share)) * second
