"""Turns published tar shards into a store, without unpacking them.

    python -m data_tools.import_webdataset --input='hcp-flat_{0000..1799}.tar' --output=STORE

Shards are those of the releases fmri-fm (with a mask in them) and CortexMAE (with the mean and the
standard deviation; their mask is in the package cortex_mae, or is given by --geometry), here, on
web servers and in buckets (`s3://`, with AWS_ENDPOINT_URL_S3). A directory of `.pt` files holds
clips that the older release had extracted. Shards are imported in parallel; a killed import goes on
with the shards that it had not finished.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from data_tools.convert.convert_command import check_restricted
from data_tools.convert.skipped import print_store
from data_tools.errors import kind_errors
from data_tools.files.remote import base_name, expand, is_url
from data_tools.flags import parse, positive, words
from data_tools.published.import_command import (
    first_run,
    geometry_of,
    import_job,
    import_parser,
    print_import_sizes,
)
from data_tools.published.importing import import_sources
from data_tools.published.maps import FLAT_SPACE, read_geometry
from data_tools.published.source import PublishedRun, Source
from data_tools.published.torch_clips import clip_sources, find_clips
from data_tools.published.webdataset import read_shard, scan_shard
from data_tools.spaces.geometry import Geometry
from data_tools.spaces.pixel_grid import STANDARD_GRID
from data_tools.timeseries.recipe import Recipe, check_tr
from data_tools.timeseries.resampling import n_resampled

_TOOL = "data_tools.import_webdataset"
_PATCH_SIZE = 16


def main(argv: Sequence[str] | None = None) -> None:
    parser = import_parser(_TOOL, __doc__)
    add = parser.add_argument
    add(
        "--input", nargs="+", required=True, metavar="PATTERN", help="shards, with {0..9}, {a,b}, *"
    )
    add("--output", required=True, type=Path, metavar="STORE", help="where the store shall appear")
    add("--tr", type=float, help="seconds between frames, where the shards do not say (1)")
    add("--patch-size", type=positive, help=f"side of a patch in pixels ({_PATCH_SIZE})")
    args = parse(parser, argv)
    with kind_errors():
        if args.tr is not None:
            check_tr(args.tr, "--tr")
        places = expand(args.input)
        clips = find_clips(places)
        if clips:
            geometry = _cut(read_geometry(args.geometry or "cortex_mae"), args.patch_size)
            sources, form = clip_sources(clips, geometry, args.tr or 1.0), "clips"
        else:
            sources = [shard_source(place, args.tr) for place in places]
        first = first_run(sources, args.skip_damaged)
        if not clips:
            geometry = _geometry(first, args.geometry, args.patch_size)
            form = "older" if first.mean_C is None else "newer"
        job = import_job(args, geometry)
        job = dataclasses.replace(job, has_scale=first.mean_C is not None)
        restricted = words(*args.restricted)
        known = {"dataset", "subject", "session", "task", "events", "source", *first.fields}
        check_restricted(restricted, known, "The first run has no")
        if args.dry_run:
            # The TR is that of the first run: headers of others do not tell theirs.
            trs = {"tr": first.tr, "new_tr": args.target_tr or first.tr, "kind": args.kind}
            kept = functools.partial(n_resampled, **trs)
            print_import_sizes(sources, geometry, args.output, args.jobs, kept)
            return
        store, skipped = import_sources(
            sources,
            args.output,
            job,
            tr=first.tr,
            preprocessing={
                "chain": "pixel" if form == "newer" else "vertex",
                "zscore": Recipe().describe()["zscore"],
                "imported": "clips" if clips else "webdataset",
            },
            provenance={
                "tool": _TOOL,
                "input": [base_name(pattern) for pattern in args.input],
                "form": form,
            },
            restricted=restricted,
            jobs=args.jobs,
            overwrite=args.overwrite,
        )
        print_store(store, len(skipped), "Left out")


def shard_source(place: str, tr: float | None = None) -> Source:
    """A tar shard as the importers' driver takes it."""
    read = functools.partial(read_shard, place, tr)
    scan = functools.partial(scan_shard, place)
    return Source(base_name(place), read, scan, is_local=not is_url(place))


def _geometry(run: PublishedRun, given: str | None, patch_size: int | None) -> Geometry:
    """The geometry of shards: that of the mask in them, a given one, or what their width tells."""
    if given or run.mask_HxW is None:
        return _cut(geometry_of(run, given), patch_size)
    patches = (patch_size or _PATCH_SIZE, patch_size or _PATCH_SIZE)
    if run.mask_HxW.shape != STANDARD_GRID.shape:
        return Geometry("flat", run.mask_HxW, patches)
    grid = STANDARD_GRID
    return Geometry(FLAT_SPACE, run.mask_HxW, patches, grid.bbox, grid.pixel_size)


def _cut(geometry: Geometry, patch_size: int | None) -> Geometry:
    """The geometry in patches of another size, if one is given."""
    if patch_size is None:
        return geometry
    return dataclasses.replace(geometry, patch_shape=(patch_size, patch_size))


if __name__ == "__main__":
    main()
