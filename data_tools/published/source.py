"""A published run, and the sources that hold them: the common form of all published datasets.

Readers (`webdataset`, `torch_clips`, `arrow_rows`) know a format and give such records; `importing`
turns them into a store and knows nothing of formats. Letters in array names: T frames, C columns, H
x W pixels.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from data_tools.convert.skipped import Outcome

# What to do about a TR that cannot be one in seconds, see `recipe.check_tr`.
WRONG_TR = "correct it at its source, to seconds"


@dataclasses.dataclass(frozen=True, eq=False)
class PublishedRun:
    """A run, or a clip of one, as it is published.

    Attributes:
      key: its name, unique in the store.
      bold_TxC: float16, z-scored, the columns of the space.
      tr: seconds between frames.
      fields: metadata for the run table: subject, session, task, ...
      events: as BIDS has them, onsets from the first frame; None if nothing is known of events.
      mean_C, std_C: the scale before z-scoring, both or None.
      missing_C: bool, the columns without data as the source tells; None if it does not.
      mask_HxW: bool, the pixels that the columns are in raster order, where it came with the run.
    """

    key: str
    bold_TxC: np.ndarray
    tr: float
    fields: dict[str, Any]
    events: list[dict[str, Any]] | None = None
    mean_C: np.ndarray | None = None
    std_C: np.ndarray | None = None
    missing_C: np.ndarray | None = None
    mask_HxW: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """Something that holds runs, such as a tar shard.

    Attributes:
      name: as messages and the field `source` of its runs call it, unique among the sources.
      read: yields its runs, and an `Outcome` with a reason for each that is no good; raises
        InputError where nothing more can be read. Picklable.
      scan: yields key, frames and columns of its runs from headers alone, otherwise as `read`.
      is_local: whether headers can be read without reading all that lies between.
    """

    name: str
    read: Callable[[], Iterator[PublishedRun | Outcome]]
    scan: Callable[[], Iterator[tuple[str, int, int] | Outcome]]
    is_local: bool = True
