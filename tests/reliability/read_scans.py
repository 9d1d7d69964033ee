"""Reads stores, geometries, scans and tables as conversions and reports do."""

import contextlib
import dataclasses
from pathlib import Path

import numpy as np

from tests.reliability.checks import check_values, refusing


def read_store(folder: Path) -> None:
    from data_tools.inspect.__main__ import summary
    from data_tools.overlap import find_overlaps
    from data_tools.split import split_subjects
    from data_tools.store.reader import Store
    from data_tools.store.selection import Selection, field_names, open_selection
    from fmrifm.input.clips import event_starts

    store = Store(folder / "store")
    check_values(store.runs)
    for i, run in enumerate(store.runs):
        frames = store.read(i, 0, run["n_frames"])
        assert frames.shape == (run["n_frames"], *store.geometry.patch_mask.shape)
        assert store.valid(i).shape == store.geometry.patch_mask.shape
        store.scale(i), store.missing(i)
    with refusing():
        list(store.verify())
    with refusing():
        store.skipped()
    with refusing():
        summary(store)
    with refusing():
        open_selection(f"{folder / 'store'}?subject=01&task=re*")
    everything = Selection(store, np.arange(len(store.runs)))
    field_names(everything.lines)
    with refusing():
        split_subjects(store.runs, {"a": 0.5, "b": 0.5})
    with refusing():
        find_overlaps({"a": [everything], "b": [everything]}, ["subject", "trial_type"])
    for run in store.runs:
        with refusing():
            event_starts(run, store.tr, 4, 0.0)


def read_geometry(folder: Path) -> None:
    from data_tools.spaces.geometry import load_geometry

    for path in sorted(folder.glob("*.npz")):
        with refusing():
            space = load_geometry(path)
            columns = np.ones((2, space.width), np.float16)
            patches = space.from_columns(columns)
            assert patches.shape == (2, space.n_patches, space.patch_dim)
            assert space.to_columns(patches).shape == columns.shape
            assert space.to_frames(patches).shape == (2, *space.mask.shape)
            assert space.image_mask.ndim == 2
            space.sha256()
            check_values([space.space, space.regions, space.bbox, space.pixel_size])


def read_surfaces(folder: Path) -> None:
    from data_tools.readers.surfaces import read_surface_header, read_surface_run

    for path in sorted(folder.iterdir()):
        if not (".dtseries." in path.name or "hemi-L" in path.name or ".lh." in path.name):
            continue
        header = run = None
        with refusing():
            header = read_surface_header(path)
            check_values(dataclasses.asdict(header))
        with refusing():
            run = read_surface_run(path, whole=True)
        if run is not None:
            assert run.left.ndim == run.right.ndim == 2 and len(run.left) == len(run.right)
            assert run.left.dtype == run.right.dtype == np.float32
            assert len(run.series(slice(0, 2))) == min(2, run.n_frames)
        if header is not None and run is not None:
            assert header.n_frames == run.n_frames, (header, run.n_frames)
            assert header.left == run.left.shape[1], (header, run.left.shape)


def read_labels(folder: Path) -> None:
    from data_tools.readers.parcellation import read_parcellation
    from data_tools.spaces.parcels import ParcelMap

    pairs = [["c.dlabel.nii"], ["a.L.label.gii", "a.R.label.gii"], ["lh.x.annot", "rh.x.annot"]]
    for names in pairs:
        if not (folder / names[0]).is_file():
            continue
        with refusing():
            parcels = read_parcellation([folder / name for name in names])
            assert parcels.labels.min() >= 0 and parcels.labels.max() <= len(parcels.names)
            assert len(parcels.labels) == sum(parcels.n_vertices)
            check_values(parcels.names)
            space = ParcelMap(parcels)
            space.geometry.to_bytes()
            space.without(np.zeros(len(parcels.labels), bool))


def read_flat_surfaces(folder: Path) -> None:
    from data_tools.spaces.standard_maps import read_flat_map

    sides = ("left", "right")
    surfaces = [folder / f"{side}.surf.gii" for side in sides]
    flat = read_flat_map(surfaces, [folder / f"roi_{side}.func.gii" for side in sides])
    assert flat.linear.shape == (flat.geometry.n_pixels, sum(flat.n_vertices))
    assert np.isfinite(flat.sample(np.ones((2, sum(flat.n_vertices)), np.float32))).all()


def read_volume_headers(folder: Path) -> None:
    from data_tools.readers.volume_run import read_volume_header

    with refusing():
        header = read_volume_header(folder / "run.nii.gz")
        check_values([header.n_frames, header.tr])
        assert header.n_frames >= 0


def read_volumes(folder: Path) -> None:
    from data_tools.readers.volume_run import (
        MNI_SHAPE,
        read_cortex,
        read_volume_header,
        read_volume_run,
    )

    with refusing():
        header = read_volume_header(folder / "run.nii.gz")
        cortex = np.zeros(MNI_SHAPE[::-1], bool)
        cortex[40, 50, 30:60] = True
        run = read_volume_run(folder / "run.nii.gz", cortex_ZxYxX=cortex)
        assert run.values.shape == (header.n_frames, 30)
    with refusing():
        assert read_cortex(folder / "m.nii").shape == MNI_SHAPE[::-1]


def read_tables(folder: Path) -> None:
    from data_tools.convert.beside import read_beside
    from data_tools.convert.raw_run import RunFiles
    from data_tools.convert.releases import bids_files, hcp_batches, nsd_trials
    from data_tools.published.arrow_rows import read_join
    from data_tools.store.selection import read_words
    from data_tools.timeseries.confounds import read_confounds, select_confounds
    from fmrifm.probe.samples.labels import parse_target
    from fmrifm.published.space_geometry import load_components
    from fmrifm.scaling.points import read_points

    run = RunFiles("k", folder / "x.nii", sidecar_tr=(folder / "sidecar.json",))
    runs = [{"subject": "01", "dataset": ""}, {"subject": "02", "session": "1", "dataset": ""}]

    def target(text: str) -> None:
        found = parse_target(text)
        for record in ({"a": 1}, {"a": "2"}, *runs):
            found.label(record)
            with contextlib.suppress(ValueError):
                found.numbers(record)

    def confounds() -> None:
        table = read_confounds(folder / "confounds.tsv")
        select_confounds(table, ["csf", "trans_x"])

    for read in (
        lambda: check_values(bids_files.read_events(folder / "events.tsv")),
        lambda: check_values(bids_files.read_participants(folder / "participants.tsv")),
        confounds,
        lambda: check_values(dataclasses.astuple(read_beside(run))),
        lambda: target(f"table:{folder / 'values.csv'}:score"),
        lambda: target(f"event:a;{folder / 'map.json'}"),
        lambda: target(f"array:{folder / 'rows.npy'}:a"),
        lambda: read_points([str(folder / "points.csv")]),
        lambda: check_values(read_words(folder / "words.txt")),
        lambda: check_values(hcp_batches.read_families(folder / "families.csv")),
        lambda: check_values(hcp_batches.read_batches(folder / "batches.json")),
        lambda: nsd_trials.read_trials(folder / "trials.csv", None),
        lambda: read_join(f"dx={folder / 'join.json'}").label({"sub": "01"}),
        lambda: load_components(str(folder / "components.npz"), 2, (8, 8)),
    ):
        with refusing():
            read()
