"""The flat map: agreement with the reference, placement, and bad surfaces."""

import numpy as np
import pytest

from data_tools.errors import InputError
from data_tools.spaces.flat_map import (
    STANDARD_GRID,
    PixelGrid,
    build_flat_map,
    interpolation,
    rasterise,
)


def _square_surface(n=12, step=4.0):
    """A flat square of n x n vertices with two triangles a cell; points (n * n, 3)."""
    x, y = np.meshgrid(np.arange(n) * step, np.arange(n) * step)
    points = np.stack([x.ravel(), y.ravel(), np.zeros(n * n)], axis=1)
    a = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
    upper, lower = np.stack([a, a + 1, a + n], 1), np.stack([a + 1, a + n + 1, a + n], 1)
    return points, np.concatenate([upper, lower])


@pytest.mark.parametrize("case", ["flat_not_delaunay", "delaunay"])
def test_agrees_with_reference(golden, case):
    if case == "delaunay":
        data = {k.removeprefix("flat/"): v for k, v in golden("utils").items() if "flat/" in k}
        # The case gives its grid by the centres of the pixels.
        x, y = data["grid"]
        size = x[0, 1] - x[0, 0]
        rect = (x[0, 0], x[0, -1] + size, y[-1, 0] - size, y[0, 0])
    else:
        data = golden(case)
        rect, size = data["rect"], float(data["pixel_size"])
    grid = PixelGrid(tuple(rect), size)
    mask = rasterise(data["points"], data["polys"], grid)
    np.testing.assert_array_equal(mask, data["mask"])
    _, linear, nearest = interpolation(data["points"], data["polys"], grid.centres()[mask])
    np.testing.assert_allclose(data["data"] @ linear.T, data["linear"][:, mask], atol=3e-7)
    np.testing.assert_array_equal(data["data"][:, nearest], data["nearest"][:, mask])


def test_bad_vertices_and_triangles_do_not_matter():
    points, triangles = _square_surface()
    clean = build_flat_map((points, triangles), (points, triangles), space="square")
    n = len(points)
    # An unused vertex at the origin, one above the plane, one without a place, a duplicate.
    extra = [(0, 0, 0), (22, 22, 5), (np.nan, 0, 0), points[5]]
    bad_points = np.concatenate([points, extra])
    bad_triangles = np.concatenate(
        [
            triangles[:, [0, 2, 1]],  # all flipped
            [[0, 1, n + 1], [3, 4, n + 2]],  # to the stray vertices
            [[0, 1, 2], [7, 7, 7], [5, n + 3, 6]],  # without area
            [[0, 11, n - 1]],  # too long
        ]
    )
    bad = build_flat_map((bad_points, bad_triangles), (points, triangles), space="square")
    np.testing.assert_array_equal(bad.geometry.mask, clean.geometry.mask)
    assert bad.kept.sum() == 2 * n and not bad.kept[n : n + 4].any()
    values = np.random.default_rng(0).normal(size=(2, 2 * n))
    with_extra = np.insert(values, [n] * 4, np.nan, axis=1)
    # A square's two diagonals are both Delaunay: compare what does not depend on the choice.
    np.testing.assert_array_equal(bad.sample_nearest(with_extra), clean.sample_nearest(values))
    assert np.isfinite(bad.sample(with_extra)).all()


def test_hemispheres_stand_apart_and_roi_moves_nothing():
    surface = _square_surface()
    whole = build_flat_map(surface, surface, space="square")
    roi = surface[0][:, 0] < 30
    part = build_flat_map(surface, surface, roi, ~roi, space="square")
    x = STANDARD_GRID.centres()[whole.geometry.mask][:, 0]
    assert -9.2 < x[x < 0].max() <= -8 and 8 <= x[x > 0].min() < 9.2
    assert not (part.geometry.mask & ~whole.geometry.mask).any()
    np.testing.assert_array_equal(part.kept, np.concatenate([roi, ~roi]))


@pytest.mark.parametrize(
    "points, triangles, roi, words",
    [
        (np.zeros((3, 3)), [[0, 1, 2]], None, "no usable triangle"),
        (np.eye(3) * 5, [[0, 1, 2]], None, "no usable triangle"),
        (_square_surface()[0] * 20, _square_surface()[1], None, "no usable triangle"),
        (*_square_surface(), np.zeros(144, bool), "no usable triangle"),
        (*_square_surface(), np.ones(10, bool), "144 vertices and its region of interest 10"),
        (_square_surface()[0], [[0, 1, 999]], None, "damaged"),
        (_square_surface()[0] + (0, 900, 0), _square_surface()[1], None, "outside of the pixel"),
    ],
)
def test_useless_surface_is_one_sentence(points, triangles, roi, words):
    surface = (points, np.array(triangles))
    with pytest.raises(InputError, match=words):
        build_flat_map(surface, surface, roi, roi, space="bad")
