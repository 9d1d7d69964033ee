"""Which runs of which stores: the language of `data.train` and `data.eval`.

hcp                               a store, all of its runs
hcp?task=REST*&subject=train.txt  runs whose fields match a pattern or a list in a file
hcp?subject=draw:16:1             those of 16 subjects, the first ones of draw 1
hcp@0.7,nsd@0.3                   two stores and their shares of the clips; a store may have a name
                                  such as hcp@1.0, which is not taken for a share if it is there
held_out=hcp?subject=test.txt     (evaluation) a name before the stores of a set
gs://bucket/hcp                   a store in a bucket, also s3:// and https://
"""

import dataclasses
import math
import re

import numpy as np

from data_tools.errors import InputError
from data_tools.files.block_cache import BlockCache
from data_tools.spaces.geometry import Geometry
from data_tools.store.selection import Selection, is_store, open_selection, split_name

_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"

_LEAST_OVERLAP = 0.9


@dataclasses.dataclass(frozen=True)
class Source(Selection):
    """Some runs of a store, and their share of the clips.

    Attributes:
      share: its share of the clips, None to follow the number of valid starts.
    """

    share: float | None = None


def parse_sources(
    text: str, cache: BlockCache | None = None, check_runs: bool = True
) -> list[Source]:
    """Opens the stores named by `path?field=pattern&field=FILE@share,...`.

    Args:
      cache: where what is read of them is kept, see `Store`.
      check_runs: whether runs are compared with their checksums when they are first read.

    Raises:
      InputError: no store, a damaged store, an unknown field, or a filter that keeps no run.
    """
    sources = []
    parts = [text] if is_store(text) else text.split(",")
    for part in filter(None, map(str.strip, parts)):
        match = re.fullmatch(rf"(.+)@({_NUMBER})", part, re.DOTALL)
        # A name such as hcp@1.0.0 or hcp@5 is that of a store, if there is such a store.
        if match and is_store(part) and is_store(match[1]):
            raise InputError(
                f"{part} and {match[1]} are both stores: write {part}@1 or rename one."
            )
        place, share = (part, None) if match is None or is_store(part) else match.groups()
        if share is not None and not (0 < float(share) < math.inf):
            raise InputError(f"The share @{share} of {place} must be above zero.")
        share = None if share is None else float(share)
        selection = open_selection(place, cache, check_runs)
        sources.append(Source(selection.store, selection.runs, share))
    if not sources:
        raise InputError("No store is given: set data.train to the path of a store.")
    if len({source.share is None for source in sources}) > 1:
        raise InputError(f"'{text}' gives a share to some stores only: give all or none.")
    if len({source.store.tr for source in sources}) > 1:
        trs = ", ".join(f"{s.store.path} {s.store.tr} s" for s in sources)
        raise InputError(f"The stores differ in TR ({trs}): convert them to one TR.")
    return sources


def parse_named_sources(
    text: str, cache: BlockCache | None = None, check_runs: bool = True
) -> dict[str, list[Source]]:
    """Opens evaluation sets `name=path[?filters],...`; a repeated name adds to its set."""
    sets: dict[str, list[str]] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, path = split_name(part)
        if name is None:
            raise InputError(
                f"'{part}' is one of several sets and needs a name: write NAME={part}."
            )
        sets.setdefault(name, []).append(path)
    return {name: parse_sources(",".join(x), cache, check_runs) for name, x in sets.items()}


def union_geometry(sources: list[Source]) -> Geometry:
    """One geometry that holds every valid pixel of the sources.

    Raises:
      InputError: the stores lie on different grids.
    """
    first = sources[0].store
    geometry = first.geometry
    for source in sources[1:]:
        other = source.store.geometry
        check_grid(other, geometry, str(source.store.path), str(first.path))
        if not np.array_equal(other.mask, geometry.mask):
            geometry = dataclasses.replace(geometry, mask=geometry.mask | other.mask)
    return geometry


def check_grid(found: Geometry, expected: Geometry, name: str, expected_name: str) -> None:
    """Raises InputError unless weights of one geometry fit the other."""
    if not found.same_source(expected):
        raise InputError(
            f"{name} is of '{found.space}' and {expected_name} of '{expected.space}', which are "
            "other parcels or voxels: convert the runs with one parcellation or mask."
        )
    if not found.same_grid(expected):
        size, expected_size = (
            "{} x {} pixels in patches of {} x {}".format(*g.mask.shape, *g.patch_shape)
            for g in (found, expected)
        )
        raise InputError(
            f"{name} has a grid of {size}, {expected_name} one of {expected_size}: convert the "
            "runs to the same grid."
        )


def mask_problem(found: Geometry, model: Geometry, name: str) -> str | None:
    """A warning about data, called `name`, on other pixels of the grid than a model; None if not.

    Pixels beyond the model's mask matter where they are places: of a flat map they show cortex that
    the model never saw there.
    """
    share = (found.mask & model.mask).sum() / model.n_pixels
    overlap = found.overlap(model)
    if share >= _LEAST_OVERLAP and not (model.is_image and overlap < _LEAST_OVERLAP):
        return None
    return (
        f"{name} has {share:.1%} of the pixels that the model was trained on, and their masks "
        f"overlap by {overlap:.1%}: convert the runs with the surfaces and mask of "
        f"'{model.space}', or expect lower scores."
    )
