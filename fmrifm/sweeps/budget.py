"""Training of equal compute: how many steps a point may take."""

from ml_collections import ConfigDict

from fmrifm.input.preprocess import cut_geometry
from fmrifm.input.sources import parse_sources, union_geometry
from fmrifm.model.options import options_from_config
from fmrifm.sweeps.combine import Point
from fmrifm.trainer.flops import clip_flops


def steps_of(config: ConfigDict, point: Point, flops: float) -> int:
    """The steps that a number of floating-point operations comes to, at least one.

    Args:
      config: of the sweep; its data.train is opened.
      point: fields that are set otherwise.

    Raises:
      InputError: no such store, or options that make no sense.
    """
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(point)
    geometry = union_geometry(parse_sources(config.data.train))
    geometry = cut_geometry(geometry, config.model.patch)
    options = options_from_config(config.model, geometry, config.data.num_frames)
    clips = flops / clip_flops(options, geometry.n_patches)
    return max(1, round(clips / config.batch_size))
