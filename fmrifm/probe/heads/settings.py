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
    """Factor of the learning rate at each update: linear warm-up, then a cosine to zero."""
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


MODES, HEADS, REPRESENTATIONS = ("full", "lora"), ("attn", "linear"), ("patch", "cls")


@dataclasses.dataclass(frozen=True)
class FinetuneSettings:
    """How to fine-tune.

    Attributes:
      mode: `full` or `lora`.
      rank, alpha, dropout, pattern: of the adapters, see lora.py; `pattern` with `lora` only.
      freeze: regular expression on the paths of the encoder's parameters, such as
        "encoder/patch_embed/kernel", that stay as they are; "" none; with `full` only.
      lr: peak learning rate of the encoder.
      head_lr_factor: that of the head is so many times higher.
      weight_decay: of matrices; biases, norms, tokens and positions have none.
      batch_size: clips that pass through the encoder at once.
      accumulation: such batches in an update.
      epochs: in all; validation scores each of them.
      steps_per_epoch: updates of an epoch; 0 shows each training clip once.
      warmup_epochs: in which the learning rate rises to its peak.
      delay_epochs: in which only the head learns.
      head: `attn` or `linear`.
      representation: what the head takes: `patch`, the tokens with data, or `cls` (`linear` only).
    """

    mode: str = "full"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    pattern: str = ""
    freeze: str = ""
    lr: float = 1e-4
    head_lr_factor: float = 10.0
    weight_decay: float = 0.05
    batch_size: int = 32
    accumulation: int = 4
    epochs: int = 20
    steps_per_epoch: int = 0
    warmup_epochs: int = 5
    delay_epochs: int = 0
    head: str = "attn"
    representation: str = "patch"

    def __post_init__(self):
        choices = {"mode": MODES, "head": HEADS, "representation": REPRESENTATIONS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(
                    f"{name}={getattr(self, name)!r} is unknown: choose {' or '.join(known)}."
                )
        if self.head == "attn" and self.representation == "cls":
            raise InputError("head=attn attends to patch tokens: take representation=patch.")
        if self.mode == "lora" and self.freeze:
            raise InputError("mode=lora freezes all of the encoder: leave freeze empty.")
        if self.mode == "full" and self.pattern:
            raise InputError("pattern says where adapters go: set mode=lora, or leave it empty.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout={self.dropout} is no probability below 1: choose one.")
        if min(self.batch_size, self.accumulation, self.epochs) < 1 or self.steps_per_epoch < 0:
            raise InputError("batch_size, accumulation and epochs are 1 or more: raise them.")
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise InputError(
                f"finetune.warmup_epochs={self.warmup_epochs} is not within "
                f"finetune.epochs={self.epochs}: lower it."
            )


def learning_rates(settings: FinetuneSettings, steps_per_epoch: int) -> np.ndarray:
    """(T, 2) float32: of the encoder and of the head, update i = 1..T uses row i - 1."""
    total = settings.epochs * steps_per_epoch
    warmup = settings.warmup_epochs * steps_per_epoch
    cosine = (1 + np.cos(np.linspace(0, np.pi, total - warmup))) / 2
    rate_T = settings.lr * np.concatenate([np.linspace(0, 1, warmup), cosine])
    moves_T = np.arange(total) >= settings.delay_epochs * steps_per_epoch
    rates = np.stack([rate_T * moves_T, rate_T * settings.head_lr_factor], axis=1)
    return rates.astype(np.float32)
