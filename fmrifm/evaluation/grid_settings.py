"""How a grid of heads is trained: settings, and the learning rates that follow from them."""

import dataclasses

import numpy as np

from data_tools.errors import InputError

METRICS = ("accuracy", "balanced_accuracy", "f1_macro")
LOSSES = ("cross_entropy", "mse", "cosine")


@dataclasses.dataclass(frozen=True)
class GridSettings:
    """How the grid is trained; the defaults are the published ones.

    Attributes:
      lr, weight_decay: of AdamW, before multipliers; biases and norms do not decay.
      lr_multipliers, weight_decay_multipliers: the grid is their product.
      epochs, updates: of so many updates each.
      warmup_epochs: of linear warm-up; a cosine to zero follows.
      batch_size: samples of an update.
      clip_norm: largest norm of each head's gradient.
      dropout: of the mlp head.
      inner: inner width of attn and mlp heads, 0 for that of the features.
      balanced_sampling: draw classes equally.
      loss: cross_entropy, or mse or cosine of regression.
      metric: of METRICS, by which epoch and head are chosen; regression takes the loss.
    """

    lr: float = 3e-4
    weight_decay: float = 0.05
    lr_multipliers: tuple[float, ...] = tuple(np.geomspace(0.02, 50, 49).tolist())
    weight_decay_multipliers: tuple[float, ...] = (1.0,)
    epochs: int = 20
    updates: int = 200
    warmup_epochs: int = 5
    batch_size: int = 128
    clip_norm: float = 1.0
    dropout: float = 0.0
    inner: int = 0
    balanced_sampling: bool = False
    loss: str = "cross_entropy"
    metric: str = "accuracy"


def lr_schedule(settings: GridSettings) -> np.ndarray:
    """Factor of the learning rate at each update: linear warm-up, then a cosine to zero.

    Raises:
      InputError: there are no updates, or fewer than of the warm-up.
    """
    if min(settings.epochs, settings.updates, settings.batch_size) < 1:
        raise InputError("grid.epochs, grid.updates and grid.batch_size are 1 or more: raise them.")
    total, warmup = (n * settings.updates for n in (settings.epochs, settings.warmup_epochs))
    if not 0 <= warmup <= total:
        raise InputError(
            f"grid.warmup_epochs={settings.warmup_epochs} is not within "
            f"grid.epochs={settings.epochs}: lower it."
        )
    rest = (1 + np.cos(np.linspace(0, np.pi, total - warmup))) / 2
    return np.concatenate([np.linspace(0, 1, warmup), rest])


def head_rates(settings: GridSettings) -> tuple[np.ndarray, np.ndarray]:
    """Learning rate and weight decay of each head."""
    rates, decays = np.meshgrid(
        settings.lr_multipliers, settings.weight_decay_multipliers, indexing="ij"
    )
    rates, decays = settings.lr * rates.ravel(), settings.weight_decay * decays.ravel()
    return rates.astype(np.float32), decays.astype(np.float32)
