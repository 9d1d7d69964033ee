"""The readers under test: how to make a valid input, how to read it, and what must hold then.

A `read` does with a folder all that the program does with such input. It returns nothing: a wrong
result is an AssertionError. InputError and SystemExit(1) are refusals.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from tests.reliability import read_published as published
from tests.reliability import read_runs as runs
from tests.reliability import read_scans as scans
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


READERS: dict[str, Reader] = {
    "store": Reader(samples.write_store, scans.read_store),
    "geometry": Reader(samples.write_geometry, scans.read_geometry),
    "model": Reader(samples.write_model, published.read_model, share=0.5),
    "published": Reader(samples.write_published, published.read_published, share=0.5),
    "timm": Reader(samples.write_timm, published.read_published, share=0.5),
    "pickle": Reader(samples.write_pickle, published.read_published, share=0.2),
    "cifti": Reader(samples.write_cifti, scans.read_surfaces, ("*.dtseries.*",)),
    "hemispheres": Reader(samples.write_hemispheres, scans.read_surfaces),
    "dlabel": Reader(samples.write_cifti, scans.read_labels, ("*.dlabel.nii",), share=0.5),
    "labels": Reader(samples.write_labels, scans.read_labels),
    "flat surfaces": Reader(samples.write_flat_surfaces, scans.read_flat_surfaces, share=0.2),
    "volume headers": Reader(samples.write_volume, scans.read_volume_headers),
    "volumes": Reader(samples.write_volume, scans.read_volumes, share=0.05),
    "tables": Reader(samples.write_tables, scans.read_tables, share=2),
    "shards": Reader(samples.write_shards, published.read_shards),
    "import shards": Reader(
        published.make_import_shards, published.import_shards, ("*.tar",), share=0.3
    ),
    "clips": Reader(samples.write_clips, published.read_clips, share=0.5),
    "arrow": Reader(samples.write_arrow, published.read_arrow, share=2),
    "import arrow": Reader(samples.write_arrow, published.import_arrow, share=0.2),
    "split": Reader(samples.write_split, published.read_split),
    "runs": Reader(samples.write_runs, runs.read_runs),
    "sweep": Reader(samples.write_sweep, runs.read_sweep),
    "results": Reader(samples.write_results, runs.read_results, share=0.5),
}
