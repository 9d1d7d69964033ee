"""The readers under test: how to make a valid input, how to read it, and what must hold then.

A `read` does with a folder all that the program does with such input. It returns nothing: a wrong
result is an AssertionError. InputError and SystemExit(1) are refusals.
"""

import contextlib
import dataclasses
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.errors import InputError
from tests.reliability import samples


@dataclasses.dataclass(frozen=True)
class Reader:
    """A kind of input.

    Attributes:
      make: writes a valid input into a folder.
      read: reads what is in the folder.
      patterns: of the files to change.
      share: of the mutants that it gets, against 1 of others; slow readers get less.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], None]
    patterns: tuple[str, ...] = ("**/*",)
    share: float = 1.0

    def files(self, folder: Path) -> list[Path]:
        found = {path for x in self.patterns for path in folder.glob(x) if path.is_file()}
        return sorted(path for path in found if not path.name.startswith("."))


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Lets the next part of a reader go on where this part is refused."""
    with contextlib.suppress(InputError):
        yield


def check_values(value: Any) -> None:
    """What readers return is written as JSON, in UTF-8, later on."""
    json.dumps(value, allow_nan=False).encode()


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


def read_model(folder: Path) -> None:
    from fmrifm.model.files import load_model
    from fmrifm.model.mae import param_shapes
    from fmrifm.port import describe

    for name in ("model", "fixed"):
        with refusing():
            files = load_model(folder / name)
            param_shapes(files.options)
            files.has_seen("x/01")
            describe(files)


def read_published(folder: Path) -> None:
    from fmrifm.port import describe
    from fmrifm.published.weights import WEIGHT_SUFFIXES, load_published

    for path in sorted(folder.iterdir()):
        if path.suffix in WEIGHT_SUFFIXES:
            files = load_published(path)
            describe(files)
            files.has_seen("x/01")


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


def _run_command(main: Callable[[list[str]], None], arguments: list[str], store: Path) -> None:
    """An importing command; what it leaves must be an intact store."""
    from data_tools.store.reader import Store

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(arguments)
        except SystemExit as end:
            assert end.code == 1, end.code
            return
    for path in store.rglob("store.json"):
        made = Store(path.parent)
        check_values(made.runs)
        assert all(intact for _, intact in made.verify())


def read_shards(folder: Path) -> None:
    from data_tools.published.webdataset import read_shard, scan_shard

    for path in sorted(folder.glob("*.tar*")):
        sizes = {}
        with refusing():
            for run in scan_shard(str(path)):
                if isinstance(run, tuple):
                    sizes[run[0]] = run[1:]
        with refusing():
            for run in read_shard(str(path), None):
                if hasattr(run, "bold_TxC"):
                    assert run.bold_TxC.ndim == 2
                    assert sizes.get(run.key, run.bold_TxC.shape) == run.bold_TxC.shape


def import_shards(folder: Path) -> None:
    from data_tools.import_webdataset import main

    for name in ("old.tar", "new.tar"):
        if (folder / name).is_file():
            space = ["--geometry", str(folder / "space.npz")] if name == "new.tar" else []
            output = folder / ".out"
            _run_command(
                main, ["--input", str(folder / name), "--output", str(output), *space], output
            )


def make_import_shards(folder: Path) -> None:
    samples.write_shards(folder)
    (folder / "packed.tar.gz").unlink()
    space = samples.Geometry("parcels-30", np.ones((30, 1), bool), (1, 1))
    (folder / "space.npz").write_bytes(space.to_bytes())


def read_clips(folder: Path) -> None:
    from data_tools.published.source import PublishedRun
    from data_tools.published.torch_clips import read_clips

    space = samples.geometry()
    for run in read_clips([str(x) for x in sorted(folder.glob("*.pt"))], space, 1.0):
        if isinstance(run, PublishedRun):
            assert run.bold_TxC.shape[1] == space.n_pixels
            check_values([run.fields, run.events])


def read_arrow(folder: Path) -> None:
    from data_tools.published.arrow import find_splits
    from data_tools.published.arrow_rows import RowForm, are_clips, arrow_source, read_split

    form = RowForm()
    splits = find_splits(str(folder / "data"))
    for name, places in splits.items():
        with refusing():
            rows = read_split(name, places, skip_damaged=False)
            are_clips(rows)
            check_values([list(row) for row in rows])
        for place in places:
            source = arrow_source(name, place, form)
            with refusing():
                list(source.scan())
            with refusing():
                for run in source.read():
                    if hasattr(run, "bold_TxC"):
                        assert run.bold_TxC.ndim == 2
                        float(np.nansum(run.bold_TxC.astype(np.float32)))


def import_arrow(folder: Path) -> None:
    from data_tools.import_arrow import main

    output = folder / ".out"
    arguments = ["--input", str(folder / "data"), "--output", str(output), "--unlabelled", "keep"]
    _run_command(main, arguments, output)


def read_split(folder: Path) -> None:
    from data_tools.published import published_split as ours

    split = ours.read_split(str(folder / "split.json"))
    events = [{"onset": 1.0, "trial_type": "a"}, {"onset": 2.5, "trial_type": None}]
    runs = [
        {"key": f"r{i}", "subject": f"{i:02d}", "tr": 1.0, "task": "rest", "n_frames": 9}
        | {"events": events}
        for i in range(4)
    ]
    chosen = ours.choose_runs(split, runs)
    counts = {name: ours.count_split(split, some) for name, some in chosen.items()}
    ours.describe_counts(split, counts)
    check_values([counts, split.target, split.labels])


def read_runs(folder: Path) -> None:
    from fmrifm.runs import finished
    from fmrifm.runs.provenance import read_starts
    from fmrifm.scaling.points import read_points
    from fmrifm.table.choose import make_table

    places = [str(folder / "run0"), str(folder / "run1")]
    with refusing():
        runs = finished.read_runs(places)
        make_table(runs)
        for run in runs:
            run.losses()
    with refusing():
        read_points(places)
    read_starts(folder / "run0")


def read_sweep(folder: Path) -> None:
    from fmrifm.runs import finished
    from fmrifm.sweep import status
    from fmrifm.sweep.ledger import Ledger

    with refusing():
        ledger = Ledger(folder / "sweep")
        status.describe_sweep(ledger, ledger.states())
        status.describe_failures(ledger)
        ledger.publish()
    with refusing():
        finished.read_runs([str(folder / "sweep")])


def read_results(folder: Path) -> None:
    from fmrifm.probe.results.compare import compare
    from fmrifm.probe.results.compare_rows import read_predictions

    with refusing():
        compare([folder / "probe"], folder / ".out")
    with refusing():
        read_predictions(folder / "probe" / "predictions_avg_patch_knn.npz", "test")


READERS: dict[str, Reader] = {
    "store": Reader(samples.write_store, read_store),
    "geometry": Reader(samples.write_geometry, read_geometry),
    "model": Reader(samples.write_model, read_model, share=0.5),
    "published": Reader(samples.write_published, read_published, share=0.5),
    "timm": Reader(samples.write_timm, read_published, share=0.5),
    "pickle": Reader(samples.write_pickle, read_published, share=0.2),
    "cifti": Reader(samples.write_cifti, read_surfaces, ("*.dtseries.*",)),
    "hemispheres": Reader(samples.write_hemispheres, read_surfaces),
    "dlabel": Reader(samples.write_cifti, read_labels, ("*.dlabel.nii",), share=0.5),
    "labels": Reader(samples.write_labels, read_labels),
    "flat surfaces": Reader(samples.write_flat_surfaces, read_flat_surfaces, share=0.2),
    "volume headers": Reader(samples.write_volume, read_volume_headers),
    "volumes": Reader(samples.write_volume, read_volumes, share=0.05),
    "tables": Reader(samples.write_tables, read_tables, share=2),
    "shards": Reader(samples.write_shards, read_shards),
    "import shards": Reader(make_import_shards, import_shards, ("*.tar",), share=0.3),
    "clips": Reader(samples.write_clips, read_clips, share=0.5),
    "arrow": Reader(samples.write_arrow, read_arrow, share=2),
    "import arrow": Reader(samples.write_arrow, import_arrow, share=0.2),
    "split": Reader(samples.write_split, read_split),
    "runs": Reader(samples.write_runs, read_runs),
    "sweep": Reader(samples.write_sweep, read_sweep),
    "results": Reader(samples.write_results, read_results, share=0.5),
}
