"""fmrifm: foundation models of brain activity in JAX and Flax."""

import os
import time
import typing

if typing.TYPE_CHECKING:
    from fmrifm.embed.embedder import Embedder

__version__ = "0.1.0"

IMPORTED = time.time()  # of our commands: when they started, but for a moment


def from_pretrained(
    path_or_hub_id: str | os.PathLike, geometry: str | None = None, num_heads: int | None = None
) -> "Embedder":
    """Loads a trained model.

    Args:
      path_or_hub_id: a model directory; a pretrain workdir that has one; published weights (a .pth
        or .safetensors file, or its directory); a registered name such as "cortex_mae_flat"; or a
        hub id, owner/name[:sub/path][@revision].
      geometry: for weights that come without one: a geometry.npz, a store or model directory, or
        "cortex_mae" for the mask in that package.
      num_heads: for timm weights, whose shapes do not tell it.

    Returns:
      A model with `config`, `params`, `geometry`, `forward`, `encode` and `embed`.

    Raises:
      data_tools.errors.InputError: none of these, or damaged.
    """
    # Here, so that `import fmrifm` takes no time.
    from fmrifm.embed.embedder import Embedder
    from fmrifm.published.open_model import open_model

    return Embedder(**vars(open_model(path_or_hub_id, geometry, num_heads)))
