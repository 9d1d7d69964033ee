"""The flat map: which pixels of an image are cortex, and how vertices become pixel values.

Two flattened hemispheres stand side by side on one pixel grid. A pixel is valid when its centre
lies in a triangle of the mesh; its value is interpolated linearly in the Delaunay triangulation of
the vertices, or copied from the closest vertex. The mesh and the Delaunay triangulation are not
the same (flattening distorts triangles): the mesh says where cortex is, Delaunay how to
interpolate. Letters in array names: T frames, H x W pixels, V valid pixels, X vertices (left, then
right), F triangles.
"""

import dataclasses

import numpy as np
from scipy import sparse
from scipy.spatial import Delaunay, QhullError, cKDTree
from threadpoolctl import threadpool_limits

from data_tools.errors import InputError
from data_tools.spaces.geometry import Geometry
from data_tools.spaces.pixel_grid import STANDARD_GRID, PixelGrid, rasterise
from data_tools.spaces.space_map import Sample, SpaceMap, sample_linear

# Half of the gap between the hemispheres, in mm.
_HALF_GAP = 8.0
# A vertex above the plane was cut away when the surface was flattened, in mm.
_MAX_HEIGHT = 1e-5
# A longer side bridges a cut of the flat surface and covers no cortex, in mm.
_MAX_SIDE = 16.0


@dataclasses.dataclass(frozen=True, eq=False)
class FlatMap(SpaceMap):
    """The map from the vertices of two hemispheres to the valid pixels of a geometry.

    Attributes:
      geometry: valid pixels and patch grid.
      linear: (V, X) float32 CSR matrix, rows in raster order of the mask, each sums to 1.
      nearest: (V,) int32: the kept vertex closest to each pixel.
      left, right: number of vertices of each hemisphere; X = left + right.
      kept: (X,) bool: the vertices that the map uses.
    """

    geometry: Geometry
    linear: sparse.csr_matrix
    nearest: np.ndarray
    left: int
    right: int
    kept: np.ndarray

    default_chain = "vertex"

    @property
    def n_vertices(self) -> tuple[int, int]:
        """Of the left and the right hemisphere."""
        return self.left, self.right

    def without(self, lost_X: np.ndarray) -> tuple[Sample, np.ndarray]:
        """How to sample a run that lacks vertices; see `SpaceMap`.

        A pixel is lost where its nearest vertex is; others are interpolated as ever.
        """
        return self.sample, self.sample_nearest(lost_X)

    def refusal(self, space: str) -> str:
        """What to do about a run on another mesh."""
        return (
            f"the flat map is '{self.geometry.space}': give the flat surfaces of {space} with "
            "--surfaces=LEFT RIGHT."
        )

    def sample(self, series_TxX: np.ndarray) -> np.ndarray:
        """(T, X) values at the vertices -> (T, V) linearly interpolated values at the pixels."""
        return sample_linear(self.linear, series_TxX)

    def sample_nearest(self, series_TxX: np.ndarray) -> np.ndarray:
        """(..., X) values at the vertices -> (..., V) values of the vertex closest to a pixel."""
        return series_TxX[..., self.nearest]


def build_flat_map(
    left: tuple[np.ndarray, np.ndarray],
    right: tuple[np.ndarray, np.ndarray],
    left_roi: np.ndarray | None = None,
    right_roi: np.ndarray | None = None,
    *,
    space: str,
    patch_size: int = 16,
    grid: PixelGrid = STANDARD_GRID,
) -> FlatMap:
    """Builds the flat map of two flat surfaces.

    The left hemisphere is shifted so that it ends 8 mm left of the middle, the right so that it
    begins 8 mm right of it. This is done before the region of interest is cut out: the same surface
    lies on the same pixels whatever the region.

    Args:
      left, right: points (X, 3) in mm and triangles (F, 3) of the flat surfaces.
      left_roi, right_roi: (X,) bool, the vertices to keep; None keeps all. A triangle is kept when
        all of its vertices are.
      space: name of the space for the geometry.
      patch_size: side of a patch in pixels.
      grid: the pixel grid.
    """
    left_mesh = _flat_mesh(*left, left_roi, f"The left flat surface of '{space}'", side=-1)
    right_mesh = _flat_mesh(*right, right_roi, f"The right flat surface of '{space}'", side=+1)
    n_left, n_right = len(left_mesh[0]), len(right_mesh[0])
    points = np.concatenate([left_mesh[0], right_mesh[0]])
    triangles = np.concatenate([left_mesh[1], right_mesh[1] + n_left])
    mask = rasterise(points, triangles, grid)
    if not mask.any():
        raise InputError(
            f"The flat surfaces of '{space}' lie outside of the pixel grid: give surfaces in mm."
        )
    kept, linear, nearest = interpolation(points, triangles, grid.centres()[mask])
    geometry = Geometry(space, mask, (patch_size, patch_size), grid.bbox, grid.pixel_size)
    return FlatMap(geometry, linear, nearest, n_left, n_right, kept)


def interpolation(
    points: np.ndarray, triangles: np.ndarray, pixels: np.ndarray
) -> tuple[np.ndarray, sparse.csr_matrix, np.ndarray]:
    """Weights that carry values at the vertices of a flat mesh to pixels.

    Args:
      points: (X, 2) float64 positions of the vertices; only those in a triangle are used.
      triangles: (F, 3) indices into the points.
      pixels: (V, 2) float64 positions of the pixels.

    Returns:
      kept: (X,) bool, the vertices in a triangle.
      linear: (V, X) float32 CSR matrix of barycentric weights in the Delaunay triangulation of the
        kept vertices. A pixel outside of its hull, as rounding makes of pixels on the border,
        takes the value of the nearest vertex.
      nearest: (V,) int32, the kept vertex closest to each pixel.
    """
    kept = np.zeros(len(points), bool)
    kept[triangles] = True
    vertices = np.flatnonzero(kept)
    nearest = vertices[cKDTree(points[vertices]).query(pixels)[1]]
    corners, weights = _barycentric(points[vertices], pixels)
    outside = ~np.isfinite(weights).all(1)
    corners = vertices[corners]
    corners[outside] = nearest[outside, None]
    weights[outside] = (1.0, 0.0, 0.0)
    rows = np.repeat(np.arange(len(pixels)), 3)
    linear = sparse.csr_matrix(
        (weights.astype(np.float32).ravel(), (rows, corners.ravel())),
        shape=(len(pixels), len(points)),
    )
    linear.eliminate_zeros()
    return kept, linear, nearest.astype(np.int32)


def _barycentric(points: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners (V, 3) and weights (V, 3) of the Delaunay triangle of each pixel, NaN outside."""
    try:
        delaunay = Delaunay(points)
    except QhullError:
        # All vertices on one line: there is no triangle that could hold a pixel.
        return np.zeros((len(pixels), 3), np.intp), np.full((len(pixels), 3), np.nan)
    # SciPy solves a tiny linear system for each triangle here: threads would only wait for each
    # other, on busy processors for most of a minute.
    with threadpool_limits(1):
        found = delaunay.find_simplex(pixels)
    transform = delaunay.transform[found]
    weights = np.einsum("vij,vj->vi", transform[:, :2], pixels - transform[:, 2])
    weights = np.column_stack([weights, 1 - weights.sum(1)])
    weights[found < 0] = np.nan
    # A pixel on an edge is found with weights a rounding error below zero.
    weights = weights.clip(0, 1)
    return delaunay.simplices[found], weights / weights.sum(1, keepdims=True)


def _flat_mesh(
    points: np.ndarray, triangles: np.ndarray, roi: np.ndarray | None, name: str, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Points in the plane (X, 2), shifted to their side, and the usable triangles (F, 3)."""
    points, triangles = np.asarray(points, np.float64), np.asarray(triangles)
    if triangles.size and not 0 <= triangles.min() <= triangles.max() < len(points):
        raise InputError(f"{name} is damaged (its triangles name vertices that it lacks).")
    if roi is not None and roi.shape != (len(points),):
        raise InputError(
            f"{name} has {len(points):,} vertices and its region of interest {roi.size:,}: give "
            "both of the same mesh."
        )
    flat = np.isfinite(points).all(1) & (np.abs(points[:, 2]) <= _MAX_HEIGHT)
    plane = points[:, :2].copy()
    triangles = triangles[flat[triangles].all(1)]
    triangles = triangles[is_usable(plane[triangles])]
    if len(triangles):
        used = plane[triangles, 0]
        plane[:, 0] += side * _HALF_GAP - (used.max() if side < 0 else used.min())
    if roi is not None:
        triangles = triangles[roi.astype(bool)[triangles].all(1)]
    if not len(triangles):
        raise InputError(
            f"{name} has no usable triangle: give a flattened surface in mm, with z = 0, and a "
            "region of interest that holds cortex."
        )
    return plane, triangles


def is_usable(corners_Fx3x2: np.ndarray) -> np.ndarray:
    """(F,) bool: the triangles with short sides and an area. A flipped one counts as well."""
    sides = corners_Fx3x2 - np.roll(corners_Fx3x2, 1, axis=1)
    double_area = np.abs(sides[:, 0, 0] * sides[:, 1, 1] - sides[:, 0, 1] * sides[:, 1, 0])
    return (np.linalg.norm(sides, axis=-1) < _MAX_SIDE).all(1) & (double_area > 0)
