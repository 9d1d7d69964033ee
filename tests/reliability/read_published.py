"""Reads published data and models as importers do."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.reliability import samples
from tests.reliability.checks import check_values, refusing


def read_model(folder: Path) -> None:
    from fmrifm.model.files import load_model
    from fmrifm.model.mae import param_shapes
    from fmrifm.runs.port_model import describe

    for name in ("model", "fixed"):
        with refusing():
            files = load_model(folder / name)
            param_shapes(files.options)
            files.has_seen("x/01")
            describe(files)


def read_published(folder: Path) -> None:
    from fmrifm.published.weights import WEIGHT_SUFFIXES, load_published
    from fmrifm.runs.port_model import describe

    for path in sorted(folder.iterdir()):
        if path.suffix in WEIGHT_SUFFIXES:
            files = load_published(path)
            describe(files)
            files.has_seen("x/01")


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


def make_import_shards(folder: Path) -> None:
    samples.write_shards(folder)
    (folder / "packed.tar.gz").unlink()
    space = samples.Geometry("parcels-30", np.ones((30, 1), bool), (1, 1))
    (folder / "space.npz").write_bytes(space.to_bytes())


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


def import_shards(folder: Path) -> None:
    from data_tools.import_webdataset import main

    for name in ("old.tar", "new.tar"):
        if (folder / name).is_file():
            space = ["--geometry", str(folder / "space.npz")] if name == "new.tar" else []
            output = folder / ".out"
            _run_command(
                main, ["--input", str(folder / name), "--output", str(output), *space], output
            )


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
