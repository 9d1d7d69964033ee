"""How heads are trained by gradients: settings, and the learning rates that follow from them.

configs/probe.py describes the fields of both sections, and has the same defaults.
"""

import dataclasses

import numpy as np

from data_tools.errors import InputError, check_choice, check_least

LOSSES = ("cross_entropy", "mse", "cosine")
_CHOICES = {
    "mode": ("full", "lora"),
    "head": ("attn", "linear"),
    "representation": ("patch", "cls"),
}


@dataclasses.dataclass(frozen=True)
class LogisticSettings:
    """`config.logistic`: weights of classes, and whose splits C is chosen by."""

    class_weight: str = "none"
    protocol: str = "fmrifm"

    def __post_init__(self):
        check_choice("logistic.class_weight", self.class_weight, ("none", "balanced"))
        check_choice("logistic.protocol", self.protocol, ("fmrifm", "brainmarks"))

    @property
    def weight(self) -> str | None:
        """As scikit-learn calls it."""
        return None if self.class_weight == "none" else self.class_weight


@dataclasses.dataclass(frozen=True)
class GridSettings:
    """`config.grid`: how a grid of heads is trained; the defaults are the published ones."""

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
    loss: str = "cross_entropy"  # of classes; of numbers config.grid.regression_loss
    metric: str = "accuracy"  # that epoch and head are chosen by; regression takes the loss

    def __post_init__(self):
        for name in ("epochs", "updates", "batch_size"):
            check_least(f"grid.{name}", getattr(self, name), 1)
        _check_warmup("grid", self)


@dataclasses.dataclass(frozen=True)
class FinetuneSettings:
    """`config.finetune`: how the encoder is trained together with a head; see lora.py too."""

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
        for name, known in _CHOICES.items():
            check_choice(name, getattr(self, name), known)
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
        _check_warmup("finetune", self)


def _check_warmup(section: str, settings: GridSettings | FinetuneSettings) -> None:
    if not 0 <= settings.warmup_epochs <= settings.epochs:
        raise InputError(
            f"{section}.warmup_epochs={settings.warmup_epochs} is not within "
            f"{section}.epochs={settings.epochs}: lower it."
        )


def lr_schedule(settings: GridSettings | FinetuneSettings, updates: int) -> np.ndarray:
    """Factor of the learning rate at each update: linear warm-up, then a cosine to zero."""
    total, warmup = (n * updates for n in (settings.epochs, settings.warmup_epochs))
    rest = (1 + np.cos(np.linspace(0, np.pi, total - warmup))) / 2
    return np.concatenate([np.linspace(0, 1, warmup), rest])


def head_rates(settings: GridSettings) -> tuple[np.ndarray, np.ndarray]:
    """Learning rate and weight decay of each head."""
    rates, decays = np.meshgrid(
        settings.lr_multipliers, settings.weight_decay_multipliers, indexing="ij"
    )
    rates, decays = settings.lr * rates.ravel(), settings.weight_decay * decays.ravel()
    return rates.astype(np.float32), decays.astype(np.float32)


def learning_rates(settings: FinetuneSettings, steps_per_epoch: int) -> np.ndarray:
    """(T, 2) float32: of the encoder and of the head, update i = 1..T uses row i - 1."""
    rate_T = settings.lr * lr_schedule(settings, steps_per_epoch)
    moves_T = np.arange(len(rate_T)) >= settings.delay_epochs * steps_per_epoch
    rates = np.stack([rate_T * moves_T, rate_T * settings.head_lr_factor], axis=1)
    return rates.astype(np.float32)
