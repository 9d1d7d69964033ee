"""The pixel grid of flat maps, and the pixels that a mesh covers."""

import dataclasses

import numpy as np

# Slack of the test whether a pixel is in a triangle, in barycentric coordinates: a pixel on the
# edge between two triangles must not fall between them by rounding.
_EDGE_SLACK = 1e-9


@dataclasses.dataclass(frozen=True)
class PixelGrid:
    """Pixels in raster order: row 0 is at the top (ymax), column 0 at the left (xmin).

    Attributes:
      bbox: (xmin, xmax, ymin, ymax) in mm. Pixel (row, col) is at x = xmin + pixel_size * col,
        y = ymax - pixel_size * row, so that xmax and ymin are just past the last pixel.
      pixel_size: in mm.
    """

    bbox: tuple[float, float, float, float]
    pixel_size: float

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        xmin, xmax, ymin, ymax = self.bbox
        return round((ymax - ymin) / self.pixel_size), round((xmax - xmin) / self.pixel_size)

    def centres(self) -> np.ndarray:
        """(H, W, 2) float64: x and y of every pixel in mm."""
        height, width = self.shape
        x = self.bbox[0] + self.pixel_size * np.arange(width)
        y = self.bbox[3] - self.pixel_size * np.arange(height)
        return np.stack(np.broadcast_arrays(x, y[:, None]), axis=-1)


def rasterise(points: np.ndarray, triangles: np.ndarray, grid: PixelGrid) -> np.ndarray:
    """(H, W) bool: the pixels whose centre is in a triangle of a mesh, edges included.

    Every pixel in the bounding box of every triangle is tested at once: the triangles of a brain
    mesh are hardly larger than a pixel. Which way round a triangle goes does not matter, and one
    without area covers nothing. Points (X, 2) are in mm; triangles (F, 3) hold indices of points.
    """
    # Columns and rows, not rounded.
    places = np.asarray(points, np.float64) - (grid.bbox[0], grid.bbox[3])
    corners = (places / (grid.pixel_size, -grid.pixel_size))[triangles]
    first = np.ceil(corners.min(1) - _EDGE_SLACK).clip(0).astype(np.int64)
    height, width = grid.shape
    last = np.floor(corners.max(1) + _EDGE_SLACK).clip(-1, (width - 1, height - 1))
    size = (last.astype(np.int64) - first + 1).clip(0)

    # Candidate k is place[k] of the bounding box of triangle owner[k], in raster order.
    n_candidates = size.prod(1)
    owner = np.repeat(np.arange(len(triangles)), n_candidates)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(n_candidates) - n_candidates, n_candidates)
    column = first[owner, 0] + place % size[owner, 0]
    row = first[owner, 1] + place // size[owner, 0]

    # Twice the signed areas of the triangles that the pixel makes with each side.
    to_corner = corners[owner] - np.column_stack([column, row])[:, None]
    to_next = np.roll(to_corner, -1, axis=1)
    areas = to_corner[..., 0] * to_next[..., 1] - to_corner[..., 1] * to_next[..., 0]
    total = areas.sum(1)
    inside = (areas * np.sign(total)[:, None] >= -_EDGE_SLACK * np.abs(total)[:, None]).all(1)
    inside &= total != 0
    mask = np.zeros(grid.shape, bool)
    mask[row[inside], column[inside]] = True
    return mask


STANDARD_GRID = PixelGrid(bbox=(-336.0, 336.0, -122.8, 146.0), pixel_size=1.2)
