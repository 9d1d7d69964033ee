"""Parcel averages: labels of surfaces and of all grayordinates, lost vertices, order, pictures."""

import json

import nibabel
import numpy as np
import pytest
from nibabel import cifti2, gifti
from nibabel.freesurfer import write_annot

from data_tools.convert import __main__ as convert
from data_tools.errors import InputError
from data_tools.readers.parcellation import read_parcellation
from data_tools.readers.surfaces import read_surface_run
from data_tools.spaces.parcels import ParcelMap
from data_tools.spaces.standard_maps import standard_flat_map
from data_tools.store.reader import Store
from data_tools.timeseries.process_run import process_run
from data_tools.timeseries.recipe import Recipe
from data_tools.timeseries.zscore import zscore
from tests.data_tools.readers.surface_files import N, series, write_cifti, write_gifti

N_VOXELS = 7
PIXEL = Recipe(chain="pixel", tr=1.0, min_frames=1)


def write_labels(path, keys, table):
    """A GIFTI label file of one hemisphere."""
    array = gifti.GiftiDataArray(keys.astype(np.int32), "NIFTI_INTENT_LABEL")
    labels = gifti.GiftiLabelTable()
    for key, name in table.items():
        label = gifti.GiftiLabel(key)
        label.label = name
        labels.labels.append(label)
    nibabel.save(gifti.GiftiImage(darrays=[array], labeltable=labels), path)
    return path


def write_dlabel(path, keys, table, subcortex=0, drop=0):
    """A CIFTI parcellation; keys of left, right and voxels, without `drop` vertices a side."""
    vertices = np.arange(drop, N)
    models = [
        cifti2.BrainModelAxis.from_surface(vertices, N, f"CIFTI_STRUCTURE_CORTEX_{side}")
        for side in ("LEFT", "RIGHT")
    ]
    values = [keys[drop:N], keys[N + drop : 2 * N]]
    if subcortex:
        voxels = np.ones((subcortex, 1, 1), bool)
        models.append(cifti2.BrainModelAxis.from_mask(voxels, "thalamus_left", affine=np.eye(4)))
        values.append(keys[2 * N :])
    label = {key: (name, (1, 0, 0, 1)) for key, name in table.items()}
    axes = (cifti2.LabelAxis(["parcels"], [label]), sum(models[1:], models[0]))
    image = cifti2.Cifti2Image(np.concatenate(values)[None].astype(np.float32), axes)
    nibabel.save(image, path)
    return path


def stripes(n_parcels, size=N):
    """(size,) keys 0 to n_parcels, in turns."""
    return np.arange(size) % (n_parcels + 1)


def test_means_leave_out_lost_vertices_and_come_in_the_order_of_keys(tmp_path):
    keys = np.concatenate([stripes(3), stripes(3)])
    keys[keys == 2] = 7  # keys need not follow one another
    table = {0: "???", 1: "one", 3: "three", 7: "seven", 9: "nobody"}
    path = write_dlabel(tmp_path / "toy.dlabel.nii", keys, table, drop=100)
    parcels = read_parcellation([path])
    assert parcels.names == ("one", "three", "seven") and parcels.name == "toy"
    assert parcels.n_vertices == (N, N) and not parcels.labels[:100].any()

    left, right = series(0), series(1)
    lost = np.flatnonzero(parcels.labels[:N] == 2)
    left[:, lost[:50]] = 5.0  # constant: no data
    whole = np.flatnonzero(parcels.labels == 3)
    both = np.concatenate([left, right], 1)
    both[:, whole] = 0
    write_cifti(tmp_path / "run.dtseries.nii", both[:, :N], both[:, N:], drop=100)
    run = read_surface_run(tmp_path / "run.dtseries.nii")
    space_map = ParcelMap(parcels)
    frames = process_run(run, space_map, Recipe(**vars(PIXEL) | {"max_missing": 0.5}))
    expected = np.stack(
        [both[:, (parcels.labels == i + 1) & (both.std(0) > 0)].mean(1) for i in range(2)], 1
    )
    scaled, mean, std = zscore(expected.astype(np.float64))
    np.testing.assert_allclose(frames.frames[:, :2, 0], scaled, atol=2e-3)
    np.testing.assert_allclose(frames.mean[:2, 0], mean, atol=1e-5)
    np.testing.assert_allclose(frames.std[:2, 0], std, rtol=1e-5)
    assert frames.missing.tolist() == [2] and not frames.frames[:, 2].any()
    assert frames.qc["missing_share"] == round(1 / 3, 6)


def test_hemispheres_as_gifti_are_the_same_parcels(tmp_path):
    keys = np.concatenate([stripes(3), stripes(3) + 3 * (stripes(3) > 0)])
    names = {i: f"parcel {i}" for i in range(1, 7)}
    together = read_parcellation([write_dlabel(tmp_path / "a.dlabel.nii", keys, names)])
    pair = [
        write_labels(tmp_path / f"a.{side}.label.gii", half, names)
        for side, half in zip("LR", np.split(keys, 2), strict=True)
    ]
    apart = read_parcellation(pair)
    assert apart.sha256 == together.sha256
    with pytest.raises(InputError, match="not the left hemisphere: give LEFT, then RIGHT"):
        read_parcellation(pair[::-1])

    # Atlases that number each side alone.
    pair[1] = write_labels(tmp_path / "a.R.label.gii", stripes(3), {1: "x", 2: "y", 3: "z"})
    own = read_parcellation(pair)
    assert own.names == ("L_parcel 1", "L_parcel 2", "L_parcel 3", "R_x", "R_y", "R_z")
    np.testing.assert_array_equal(own.labels, together.labels)
    assert own.sha256 != together.sha256  # other names, other order: not the same space


def test_a_parcel_that_is_empty_on_the_mesh_is_a_missing_column(tmp_path):
    keys = np.concatenate([stripes(5), 5 * (stripes(5) > 0) + stripes(5)])
    keys[(keys == 3) | (keys == 10)] = 0
    names = {0: "???"} | {i: f"p{i}" for i in range(1, 11)}
    parcels = read_parcellation([write_dlabel(tmp_path / "a.dlabel.nii", keys, names)])
    assert parcels.names == tuple(names.values())[1:]
    both = np.concatenate([series(0), series(1)], 1)
    write_cifti(tmp_path / "run.dtseries.nii", both[:, :N], both[:, N:])
    run = read_surface_run(tmp_path / "run.dtseries.nii")
    frames = process_run(run, ParcelMap(parcels), PIXEL)
    assert frames.missing.tolist() == [2, 9]
    np.testing.assert_allclose(frames.mean[3, 0], both[:, keys == 4].mean(), atol=1e-5)

    # The same as files of both sides: numbered together, and each alone.
    left, right = np.split(keys, 2)
    for number, first in (("together", 0), ("alone", 5)):
        pair = [
            write_labels(tmp_path / f"{number}.{side}.label.gii", half, table)
            for side, half, table in (
                ("L", left, names if number == "together" else dict(list(names.items())[:6])),
                ("R", right - first * (right > 0), {k - first: v for k, v in names.items()}),
            )
        ]
        np.testing.assert_array_equal(read_parcellation(pair).labels, parcels.labels)
        assert len(read_parcellation(pair).names) == 10


def test_labels_of_no_cortex_are_no_parcels(tmp_path):
    walls = ("???", "Background+FreeSurfer_Defined_Medial_Wall", "L_Medial_wall", "MEDIAL.WALL")
    walls += ("unknown", "lh_corpuscallosum", "ctx-lh-unknown", "None")
    names = dict(enumerate(["one", *walls, "Medial_wall_nearby", "two"], 1))
    keys = np.concatenate([stripes(len(names))] * 2)
    parcels = read_parcellation([write_dlabel(tmp_path / "a.dlabel.nii", keys, names)])
    assert parcels.names == ("one", "Medial_wall_nearby", "two")
    np.testing.assert_array_equal(parcels.labels == 1, keys == 1)
    np.testing.assert_array_equal(parcels.labels == 3, keys == len(names))


def test_annotations_of_freesurfer(tmp_path):
    names = ["Unknown", "one", "Medial_wall", "small", "two"]
    colours = np.column_stack([np.arange(1, 6), np.zeros((5, 4), int)])
    pair, labels = [tmp_path / "lh.x.annot", tmp_path / "rh.x.annot"], np.arange(N) % 5
    labels[labels == 3] = -1  # in no parcel; the fourth is too small for the mesh
    for path in pair:
        write_annot(path, labels, colours, names)
    parcels = read_parcellation(pair)
    assert parcels.names == ("L_one", "L_small", "L_two", "R_one", "R_small", "R_two")
    assert parcels.n_vertices == (N, N) and parcels.name == "lh.x"
    expected = np.where(labels == 1, 1, np.where(labels == 4, 3, 0))
    np.testing.assert_array_equal(parcels.labels[:N], expected)
    np.testing.assert_array_equal(parcels.labels[N:], expected + 3 * (expected > 0))

    # Without a label of that kind the first one is a parcel.
    write_annot(pair[0], labels, colours, ["zero", *names[1:]])
    assert read_parcellation(pair).names[0] == "L_zero"
    write_annot(pair[0], labels, colours // 5, names)  # black, but for the last
    with pytest.raises(InputError, match="lh.x.annot has one colour for no parcel and one"):
        read_parcellation(pair)
    with pytest.raises(InputError, match="give one or two files"):
        read_parcellation(pair[1:])
    pair[0].write_bytes(b"damaged")
    with pytest.raises(InputError, match="lh.x.annot cannot be read, it is damaged"):
        read_parcellation(pair)
    for name in ("a.npy", "a.txt", "lh.inflated"):
        (tmp_path / name).write_bytes(b"whole")
        with pytest.raises(InputError, match=f"{name} is of a kind that is not read here"):
            read_parcellation([tmp_path / name])


def test_grayordinates_and_vertices_are_not_mixed_up(tmp_path):
    keys = np.concatenate([stripes(2), stripes(2), np.full(N_VOXELS, 3)])
    table = {1: "a", 2: "b", 3: "thalamus"}
    whole = ParcelMap(
        read_parcellation([write_dlabel(tmp_path / "w.dlabel.nii", keys, table, N_VOXELS)])
    )
    surface = ParcelMap(
        read_parcellation([write_dlabel(tmp_path / "s.dlabel.nii", keys[: 2 * N], table)])
    )
    left, right = series(0), series(1)
    below = np.arange(5)[:, None] + np.arange(N_VOXELS)
    write_cifti(tmp_path / "run.dtseries.nii", left, right, below=below)

    run = read_surface_run(tmp_path / "run.dtseries.nii", **whole.reading)
    frames = process_run(run, whole, PIXEL)
    np.testing.assert_allclose(frames.mean[2, 0], below.mean(), rtol=1e-6)
    cortex = process_run(
        read_surface_run(tmp_path / "run.dtseries.nii", **surface.reading), surface, PIXEL
    )
    np.testing.assert_array_equal(cortex.frames, frames.frames[:, :2])

    # No voxels, one too many, and as many at other places.
    others = {"none": (None, 0), "more": (np.ones((5, N_VOXELS + 1)), 0), "moved": (below, 1)}
    for name, (values, along) in others.items():
        path = tmp_path / f"{name}.dtseries.nii"
        write_cifti(path, left, right, below=values, along=along)
        with pytest.raises(InputError, match="labels fsaverage5 with 7 voxels below the cortex"):
            process_run(read_surface_run(path, **whole.reading), whole, PIXEL, name)


def test_the_flat_map_shows_every_parcel_where_it_lies(tmp_path):
    keys = np.concatenate([stripes(5), 5 * (stripes(5) > 0) + stripes(5)])
    path = write_dlabel(tmp_path / "toy.dlabel.nii", keys, {i: str(i) for i in range(1, 11)})
    geometry = ParcelMap(read_parcellation([path])).geometry
    flat_map = standard_flat_map("fsaverage5")
    values = np.arange(1.0, 11.0)[None, :, None]
    image = geometry.to_image(values)[0]
    expected = keys[flat_map.nearest].astype(float)
    expected[expected == 0] = np.nan
    np.testing.assert_array_equal(image[flat_map.geometry.mask], expected)
    assert np.isnan(image[~flat_map.geometry.mask]).all() and geometry.is_image
    np.testing.assert_array_equal(geometry.image_mask, np.isfinite(image))


def test_convert_to_parcels(tmp_path, capsys):
    keys = np.concatenate([stripes(4), 4 * (stripes(4) > 0) + stripes(4)])
    path = write_dlabel(tmp_path / "toy.dlabel.nii", keys, {i: f"p{i}" for i in range(1, 9)})
    for name, seed in (("sub-01_bold", 0), ("sub-02_bold", 2)):
        write_cifti(
            tmp_path / f"{name}.dtseries.nii", series(seed, 40), series(seed + 1, 40), tr=1.0
        )
    arguments = [f"--input={tmp_path}/sub-*.dtseries.nii", f"--output={tmp_path / 'store'}"]
    convert.main([*arguments, f"--parcels={path}", "--dry-run"])
    assert "runs, 80 frames" in capsys.readouterr().out
    convert.main([*arguments, f"--parcels={path}"])
    store = Store(tmp_path / "store")
    assert store.read(0, 0, 40).shape == (40, 8, 1) and store.has_scale
    assert store.geometry.regions == tuple(f"p{i}" for i in range(1, 9))
    assert store.geometry.source_sha256 == read_parcellation([path]).sha256
    assert store.preprocessing["chain"] == "pixel"
    assert json.loads((store.path / "store.json").read_text())["provenance"]["parcels"]
    assert all(intact for _, intact in store.verify())

    write_gifti(tmp_path / "mesh.lh.func.gii", series(0, 40)[:, :300])
    write_gifti(tmp_path / "mesh.rh.func.gii", series(0, 40)[:, :300])
    with pytest.raises(SystemExit):
        convert.main(
            [f"--input={tmp_path}/mesh.lh.func.gii", f"--output={tmp_path / 'o'}", "--tr=1"]
            + [f"--parcels={path}"]
        )
    error = capsys.readouterr().err.splitlines()[-1]
    assert "300 + 300 vertices and the parcellation 'toy' labels fsaverage5" in error
    assert not list(tmp_path.glob("o*"))


@pytest.mark.parametrize("what", ["empty", "fraction", "two maps", "series", "missing"])
def test_what_is_no_parcellation_is_told_in_one_sentence(tmp_path, what):
    path, keys = tmp_path / "bad.dlabel.nii", np.concatenate([stripes(2), stripes(2)])
    if what == "empty":
        write_dlabel(path, 0 * keys, {0: "???"})
    elif what == "fraction":
        write_dlabel(path, keys + 0.5, {1: "a"})
    elif what == "two maps":
        image = nibabel.load(write_dlabel(path, keys, {1: "a"}))
        axis = cifti2.LabelAxis(["a", "b"], [{1: ("a", (0, 0, 0, 1))}] * 2)
        data = np.repeat(image.get_fdata(), 2, axis=0)
        nibabel.save(cifti2.Cifti2Image(data, (axis, image.header.get_axis(1))), path)
    elif what == "series":
        write_cifti(tmp_path / "run.dtseries.nii", series(0), series(1))
        path = tmp_path / "run.dtseries.nii"
    with pytest.raises(InputError, match=path.name) as error:
        read_parcellation([path])
    assert str(error.value).count(". ") == 0
