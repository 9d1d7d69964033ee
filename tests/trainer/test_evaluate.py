"""Pictures of reconstructions: any space that knows its place is painted on the flat map."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from data_tools.spaces.geometry import Geometry
from fmrifm.trainer import evaluate as figures

PICTURE = np.array([[0, 0, 1], [-1, 2, 2]], np.int32)


def parcels(picture):
    return Geometry("toy", np.ones((3, 1), bool), (1, 1), picture=picture)


def test_a_frame_of_parcels_is_painted_where_they_lie():
    axis = Figure().subplots()
    image = figures.show_frame(axis, parcels(PICTURE), np.array([[1.0], [np.nan], [3.0]]))
    shown = image.get_array().filled(np.nan)
    np.testing.assert_array_equal(shown, [[1, 1, np.nan], [np.nan, 3, 3]])
    behind = axis.images[0].get_array()
    hidden, nothing = float(figures.HIDDEN), float(figures.OFF_CORTEX)
    # A parcel that is hidden is not the same as a place that has none.
    assert behind[0, 2] == hidden and behind[1, 0] == nothing


@pytest.mark.parametrize("picture, n_axes", [(PICTURE, 12), (None, 3)])
def test_only_spaces_without_a_place_are_drawn_as_carpets(tmp_path, monkeypatch, picture, n_axes):
    drawn = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: drawn.append(figure))
    clip = dict.fromkeys(figures.NAMES, np.zeros((16, 3, 1), np.float32))
    figures.draw_reconstruction(tmp_path / "f.png", parcels(picture), clip, "toy")
    panels = [axes for axes in drawn[0].axes if axes.get_label() != "<colorbar>"]
    assert len(panels) == n_axes
