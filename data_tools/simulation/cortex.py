"""Smooth random fields on the fsaverage5 cortex: the brush that simulated brains are painted with.

White noise on the vertices diffuses along the edges of the mesh (a heat kernel on the graph), so
that neighbours on the *surface* agree and opposite banks of a sulcus need not. Both hemispheres
share part of their noise between mirrored places, which makes fields bilateral, as those of
real brains are.
"""

import functools

import nibabel
import numpy as np
import scipy.sparse
from scipy.spatial import cKDTree

from data_tools.standard_maps import fsaverage5_file, standard_cortex

N_VERTICES = 10_242  # of one hemisphere of fsaverage5; arrays hold left then right


@functools.cache
def diffusion() -> tuple[scipy.sparse.csr_array, float]:
    """One step of diffusion along the mesh: each vertex takes a mean of itself and its neighbours.

    Neighbours weigh 1 / distance^2. With equal weights the kernel would be as stretched as the
    triangles are, and flat maps would show streaks around the insula, where folding is circular.

    Returns:
      (20,484 x 20,484) float32 matrix of both hemispheres, which no edge joins, and the length in
      mm that one step adds to the standard deviation of the kernel (in squares, along each axis).
    """
    rows, columns, squares, n = [], [], [], 2 * N_VERTICES
    for offset, side in ((0, "left"), (N_VERTICES, "right")):
        points, triangles = _surface(side)
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
    left, right = _surface("left")[0], _surface("right")[0]
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
    """Gaussian random fields, each of mean 0 and standard deviation 1 over each hemisphere.

    Args:
      rng: source of the noise.
      n_fields: number K of fields.
      fwhm: full width at half maximum of the kernel in mm along the surface.
      bilateral: correlation between a place and its mirror image, 0 to 1.

    Returns:
      (K, 20,484) float32, left then right.
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
    return np.concatenate([_surface(side)[0] for side in ("left", "right")])


@functools.cache
def _surface(side: str) -> tuple[np.ndarray, np.ndarray]:
    """Points (10242, 3) in mm half way through the cortex, and triangles (20480, 3)."""
    points = []
    for depth in ("white", "pial"):
        mesh = nibabel.load(fsaverage5_file(f"{depth}_{side}.gii.gz"))
        points.append(mesh.agg_data("pointset").astype(np.float64))
    return (points[0] + points[1]) / 2, mesh.agg_data("triangle").astype(np.int64)
