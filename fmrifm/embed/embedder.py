"""A loaded model that embeds runs: stores, files that `data_tools.convert` reads, arrays."""

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_tools.errors import InputError
from data_tools.readers.surface_run import SurfaceRun
from data_tools.spaces.standard_maps import standard_cortex, standard_flat_map
from data_tools.store.writer import StoreWriter
from data_tools.timeseries.process_run import process_run
from data_tools.timeseries.recipe import Recipe
from fmrifm.embed.embeddings import Embedded, PathLike, embed_runs, open_runs, remarks
from fmrifm.input.sources import Source, parse_sources
from fmrifm.model.files import ModelFiles
from fmrifm.model.pretrained import PretrainedModel
from fmrifm.probe.samples.compatibility import clip_length

# Of arrays: how many columns a run has on which space, and whether they are of the cortex only.
_SPACES = {
    20484: ("fsaverage5", False),
    64984: ("fsLR-32k", False),
    59412: ("fsLR-32k", True),
    91282: ("fsLR-32k", True),  # the cortex comes first, then voxels
}


@dataclasses.dataclass(frozen=True, eq=False)
class Embedder(PretrainedModel):
    """What `fmrifm.from_pretrained` returns: a model with `forward`, `encode` and `embed`."""

    def embed(
        self,
        source: PathLike | Sequence[PathLike] | np.ndarray,
        tr: float | None = None,
        with_tokens: bool = False,
        windows: int = 0,
        flags: Sequence[str] = (),
    ) -> Embedded:
        """Embeddings of runs, a row each.

        Args:
          source: a store; files or trees that `data_tools.convert` reads; or one run as an array,
            (T, X) with the vertices of fsaverage5 (20,484) or fsLR-32k (64,984, or 59,412 without
            the medial wall, or 91,282 grayordinates), or (T, H, W) flat maps of the model's grid,
            z-scored and at its TR.
          tr: seconds between the frames of an array, or of files whose headers are wrong.
          with_tokens: whether all tokens are kept too.
          windows: at most so many clips of a run, evenly spread over it; 0 for all.
          flags: of `data_tools.convert`, such as "--confounds=simple".

        Raises:
          InputError: the source is none of these, or does not fit the model.
        """
        clip_length(self)  # before anything is converted
        with tempfile.TemporaryDirectory() as folder:
            if isinstance(source, np.ndarray):
                sources = [_store_array(Path(folder) / "store", source, tr, self)]
            else:
                paths = [source] if isinstance(source, str | os.PathLike) else list(source)
                extra = [*flags, *([f"--tr={tr}"] if tr else [])]
                sources = open_runs(paths, Path(folder) / "store", self, extra)
            for remark in remarks(self, sources):
                print(remark)
            embedded = embed_runs(self, sources, Path(folder) / "features", with_tokens, windows)
            if embedded.tokens is not None:  # the files go
                tokens = [np.array(x) for x in embedded.tokens]
                embedded = dataclasses.replace(embedded, tokens=tokens)
            return embedded


def _store_array(path: Path, array: np.ndarray, tr: float | None, files: ModelFiles) -> Source:
    """A store of the one run of an array."""
    target = files.preprocessing.get("tr") or 1.0
    geometry, missing = files.geometry, None
    if array.ndim == 3 and array.shape[1:] == geometry.mask.shape:
        if tr is not None and abs(tr - target) > 0.01 * target:
            raise InputError(
                f"Flat maps of a TR of {tr:g} s are no input of a model of {target:g} s: resample "
                "them, or give the vertices."
            )
        frames = geometry.to_patches(np.asarray(array, np.float32))
        preprocessing = {}
    elif array.ndim == 2 and array.shape[1] in _SPACES:
        if tr is None:
            raise InputError("An array does not tell its TR: give tr, in seconds.")
        space, is_cortex = _SPACES[array.shape[1]]
        space_map = standard_flat_map(space, geometry.patch_shape[0])
        recipe = Recipe(target_tr=target, min_frames=1)
        run = process_run(_surface_run(array, space, is_cortex, tr), space_map, recipe, "The array")
        geometry, frames, missing = space_map.geometry, run.frames, run.missing
        preprocessing = recipe.describe()
    else:
        known = ", ".join(f"(T, {n})" for n in _SPACES)
        raise InputError(
            f"An array of shape {array.shape} is no run: give {known}, or flat maps "
            f"(T, {geometry.mask.shape[0]}, {geometry.mask.shape[1]})."
        )
    with StoreWriter(
        path, geometry, tr=target, preprocessing=preprocessing, provenance={}
    ) as writer:
        writer.add("array", frames, missing=missing, dataset="", subject="")
        writer.finish()
    return parse_sources(str(path))[0]


def _surface_run(array_TxX: np.ndarray, space: str, is_cortex: bool, tr: float) -> SurfaceRun:
    sides, first = [], 0
    for cortex_X in standard_cortex(space):
        inside_X = cortex_X if is_cortex else np.ones_like(cortex_X)
        side, last = np.zeros((len(array_TxX), len(cortex_X)), np.float32), first + inside_X.sum()
        side[:, inside_X], first = array_TxX[:, first:last], last
        sides.append(side)
    return SurfaceRun(*sides, tr=tr)
