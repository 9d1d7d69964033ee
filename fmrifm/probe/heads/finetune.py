"""Fine-tuning: the encoder and a head on its tokens are trained together on labelled clips.

`full` moves all of the encoder but what `freeze` names; `lora` moves low-rank adapters of its
Linear layers and leaves the weights alone (see lora.py).

Letters: S samples, one clip each; B clips of a batch, L tokens, D width, K classes, E values of a
regression, T updates.
"""

import contextlib
import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from tqdm import tqdm

from data_tools.errors import InputError
from fmrifm.input.pipeline import ClipReader, host_batches, on_devices
from fmrifm.input.sources import Source
from fmrifm.model.files import ModelFiles
from fmrifm.probe.features.clip_encoder import (
    ClipBatches,
    ClipEncoder,
    play_backwards,
    run_batches,
)
from fmrifm.probe.heads.heads import apply_head, init_head, losses
from fmrifm.probe.heads.lora import init_adapters, matching, merge
from fmrifm.probe.heads.settings import FinetuneSettings, learning_rates
from fmrifm.probe.samples.samples import Samples
from fmrifm.trainer.mesh import batch_sharding, make_mesh, replicated, to_devices
from fmrifm.trainer.optimizer import clip_factor
from fmrifm.trainer.step import accumulated, stream_key

CLIP_NORM = 1.0


class Labelled(NamedTuple):
    """Samples of one clip each, and what is to be read from them.

    Attributes:
      samples: one clip each; their own labels are not used.
      labels: int (S,) classes from 0 on, or float (S, E).
    """

    sources: list[Source]
    samples: Samples
    labels: np.ndarray


class Trained(NamedTuple):
    """What learns."""

    encoder: dict  # adapters, or the parameters that are not frozen by their path
    head: dict


@dataclasses.dataclass(frozen=True, eq=False)
class Finetuned:
    """A fine-tuned encoder with its head, as they were after the best epoch.

    Attributes:
      trained: the parameters that moved.
      best_epoch: from 0 on, the first with the best score.
      scores: (epochs,) validation accuracy, or minus the mean squared error in regression; -inf
        where the predictions were not finite.
      offset, scale: predicted values are offset + scale * output; None for classes.
    """

    files: ModelFiles
    settings: FinetuneSettings
    trained: Trained
    best_epoch: int
    scores: np.ndarray
    offset: np.ndarray | None
    scale: float | None

    def predict(self, sources: list[Source], samples: Samples) -> np.ndarray:
        """Probabilities (S, K) or values (S, E), float32."""
        forward = _Forward(self.files, self.settings, sources)
        outputs = forward.outputs(samples, self.files.params, self.trained)
        return _finish(outputs, self.offset, self.scale)


def finetune(
    files: ModelFiles, train: Labelled, val: Labelled, *, settings: FinetuneSettings, seed: int
) -> Finetuned:
    """Trains encoder and head on `train`; `val` chooses the epoch.

    In regression the loss is the mean squared error over values and samples, of labels centred and
    brought to a deviation of one, common to all E values, so that the learning rates fit whatever
    their unit. Values of unlike units count by their variance: standardise such labels first.
    """
    train, val = Labelled(*train), Labelled(*val)
    offset, scale, targets, n_out = _targets(train.labels, val.labels)
    forward, validation = (_Forward(files, settings, some.sources) for some in (train, val))
    for some in (train, val):
        check_samples(some.samples, files.options.num_frames)
    batches = ShuffledBatches(forward.encoder.reader, train.samples, targets, settings, seed)
    rates_Tx2 = learning_rates(settings, batches.steps_per_epoch)
    trained, base = init_trained(files, settings, n_out, seed)
    trained = jax.tree.map(jnp.array, trained)  # copies: the step takes its input's memory
    tx = _optimizer(trained, settings.weight_decay)
    step = jax.jit(
        functools.partial(_update, forward, tx, settings.accumulation, seed), donate_argnums=0
    )
    sharding, everywhere = batch_sharding(forward.mesh), replicated(forward.mesh)
    base, rates_Tx2 = jax.device_put((base, rates_Tx2), everywhere)
    state = jax.device_put((jnp.int32(0), trained, tx.init(trained)), everywhere)
    host = host_batches(batches, 0, threads=2, workers=0)
    device = on_devices(host, lambda batch: to_devices(batch, sharding))
    scores, best, best_epoch, previous = np.full(settings.epochs, -np.inf), None, 0, None
    progress = tqdm(total=len(batches), unit="update", desc="finetune", dynamic_ncols=True)
    with contextlib.closing(host), progress, jax.set_mesh(forward.mesh):
        for epoch in range(settings.epochs):
            for _ in range(batches.steps_per_epoch):
                state, loss = step(state, base, rates_Tx2, next(device))
                # Not a read: only keeps the host from running far ahead of the devices.
                jax.block_until_ready(previous)
                previous = loss
                progress.update()
            outputs = validation.outputs(val.samples, base, state[1])
            predictions = _finish(outputs, offset, scale)
            scores[epoch] = _score(predictions, val.labels)
            if best is None or scores[epoch] > scores[best_epoch]:
                best, best_epoch = jax.tree.map(np.array, jax.device_get(state[1])), epoch
            progress.set_postfix_str(f"loss {float(loss):.4f}, score {scores[epoch]:.4f}")
    if not np.isfinite(scores[best_epoch]):
        raise InputError(f"Fine-tuning diverged in every epoch: lower lr={settings.lr}.")
    return Finetuned(files, settings, best, best_epoch, scores, offset, scale)


def init_trained(
    files: ModelFiles, settings: FinetuneSettings, n_out: int, seed: int
) -> tuple[Trained, dict]:
    """Initial trained parameters, and those that stay, a tree {"encoder": ...}."""
    if settings.representation == "cls" and not files.options.class_token:
        raise InputError("The model has no class token: choose representation=patch.")
    width = files.options.embed_dim
    head = init_head(settings.head, stream_key(seed, "head"), width, n_out)
    base = {"encoder": files.params["encoder"]}
    given = {name: part for name, part in files.encoding_params.items() if name not in base}
    if settings.mode == "lora":
        key = stream_key(seed, "adapters")
        adapters = init_adapters(key, base, settings.rank, settings.pattern)
        return Trained(adapters, head), base | given
    flat = traverse_util.flatten_dict(base, sep="/")
    stays = matching(settings.freeze, list(flat), "freeze") if settings.freeze else []
    moves = {path: value for path, value in flat.items() if path not in stays}
    base = traverse_util.unflatten_dict({path: flat[path] for path in stays}, sep="/")
    return Trained(moves, head), base | given


@dataclasses.dataclass(frozen=True, eq=False)
class ShuffledBatches:
    """Shuffled samples with their targets: element k is the batch of update k.

    Each sample comes once a pass. With `steps_per_epoch` 0 an epoch is a pass, whose last batch is
    filled up with rows that do not count; otherwise passes follow each other without a gap.
    """

    reader: ClipReader
    samples: Samples
    targets: np.ndarray
    settings: FinetuneSettings
    seed: int

    @property
    def rows(self) -> int:
        """Clips of an update."""
        return self.settings.batch_size * self.settings.accumulation

    @property
    def steps_per_epoch(self) -> int:
        return self.settings.steps_per_epoch or -(-len(self.samples) // self.rows)

    def __len__(self) -> int:
        return self.settings.epochs * self.steps_per_epoch

    def index(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(B,) which samples make the batch of a step, and (B,) bool, which rows count."""
        count = len(self.samples)
        length = count if self.settings.steps_per_epoch else self.steps_per_epoch * self.rows
        turn_B, place_B = np.divmod(step * self.rows + np.arange(self.rows), length)
        counted_B, index_B = place_B < count, np.zeros(self.rows, np.int64)
        for turn in np.unique(turn_B):
            order_S = np.random.default_rng((self.seed, int(turn))).permutation(count)
            rows = (turn_B == turn) & counted_B
            index_B[rows] = order_S[place_B[rows]]
        return index_B, counted_B

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        index_B, counted_B = self.index(int(step))
        words = np.stack([np.full(self.rows, int(step)), np.arange(self.rows)], 1)
        batch = self.reader.read(self.samples.clips[index_B], words.astype(np.uint32), counted_B)
        play_backwards(batch, self.samples, index_B)
        return {**batch, "target": self.targets[index_B]}


def check_samples(samples: Samples, num_frames: int) -> None:
    """Raises InputError unless each sample is one whole clip."""
    if (np.diff(samples.first_S1) != 1).any():
        raise InputError(
            f"Fine-tuning takes one clip a sample, and {len(samples)} samples have "
            f"{len(samples.clips)} clips: set unit=clip."
        )
    short = np.flatnonzero(samples.n_frames_C < num_frames)
    if len(short):
        raise InputError(
            f"Run {samples.keys[short[0]]} is shorter than a clip of {num_frames} frames, which "
            "fine-tuning does not take: filter it out."
        )


class _Forward:
    """From a batch's bytes to the head's outputs, on the geometry of some stores."""

    def __init__(self, files: ModelFiles, settings: FinetuneSettings, sources: list[Source]):
        self.encoder, self.settings = ClipEncoder(files, sources), settings
        devices = jax.local_devices()  # as many as divide the batch
        count = math.gcd(settings.batch_size, len(devices))
        self.mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, devices[:count])
        self._compiled = jax.jit(self.__call__)

    def __call__(
        self, base: dict, trained: Trained, batch: dict, key: jax.Array | None = None
    ) -> jax.Array:
        """The head's outputs, (B, K) logits or (B, E) values; `key` of the dropout."""
        params = _assemble(base, trained.encoder, self.settings, key)
        tokens = self.encoder.tokenizer(batch)
        cls, _, patches = self.encoder.encode(params, tokens)
        tokens_BxLxD, keep_BxL = patches, tokens.valid_BxMxV.any(-1)
        if self.settings.representation == "cls":
            tokens_BxLxD, keep_BxL = cls, jnp.ones(cls.shape[:2], bool)
        return apply_head(self.settings.head, trained.head, tokens_BxLxD, keep_BxL)

    def outputs(self, samples: Samples, base: dict, trained: Trained) -> np.ndarray:
        """The head's outputs of samples in their order."""
        check_samples(samples, self.encoder.reader.num_frames)
        batches = ClipBatches(self.encoder, samples, self.settings.batch_size)
        step = functools.partial(
            self._compiled, *jax.device_put((base, trained), replicated(self.mesh))
        )
        return np.concatenate(list(run_batches(step, batches, self.mesh)))[: len(samples)]


def _assemble(
    base: dict, moved: dict, settings: FinetuneSettings, key: jax.Array | None = None
) -> dict:
    """The whole parameters from those that stay and those that move."""
    if settings.mode == "lora":
        return merge(base, moved, settings.alpha, key, settings.dropout)
    flat = traverse_util.flatten_dict(base, sep="/")
    return traverse_util.unflatten_dict({**flat, **moved}, sep="/")


def _optimizer(trained: Trained, weight_decay: float) -> optax.GradientTransformation:
    """Adam moments plus decoupled decay of matrices; the update multiplies by the learning rate."""

    mask = Trained(
        {path: path.endswith("/kernel") for path in trained.encoder},  # adapters are of kernels
        jax.tree.map(lambda value: value.ndim > 1, trained.head),
    )
    return optax.chain(
        optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),
        optax.add_decayed_weights(weight_decay, mask=mask),
    )


def _update(forward, tx, accumulation, seed, state, base, rates_Tx2, batch):
    """One update: (state, loss) from the gradient of the summed loss of all its parts."""
    step, trained, opt_state = state
    key = jax.random.fold_in(stream_key(seed, "finetune"), step)

    def total(trained, part):
        kind = "cross_entropy" if part["target"].ndim == 1 else "mse"
        error_B = losses(kind, forward(base, trained, part, key), part["target"])
        counted_B = part["counted"]
        sums = jnp.sum(jnp.where(counted_B, error_B, 0)), jnp.sum(counted_B)
        return sums[0], sums

    grad_fn = jax.grad(total, has_aux=True)
    grads, (error, count) = accumulated(lambda part: grad_fn(trained, part), batch, accumulation)
    grads = jax.tree.map(lambda g: g / count, grads)
    factor = clip_factor(optax.tree.norm(grads), CLIP_NORM)
    updates, opt_state = tx.update(jax.tree.map(lambda g: g * factor, grads), opt_state, trained)
    rates = rates_Tx2[step]

    def moved(part, update, rate):
        return jax.tree.map(lambda p, u: p - rate * u, part, update)

    trained = Trained(*map(moved, trained, updates, rates))
    return (step + 1, trained, opt_state), error / count


def _targets(labels: np.ndarray, val_labels: np.ndarray):
    """Offset and scale of values (None for classes), training targets, and the head's outputs."""
    labels = np.asarray(labels)
    if np.issubdtype(labels.dtype, np.integer):
        n_classes = int(max(labels.max(), np.max(val_labels))) + 1
        return None, None, labels.astype(np.int32), n_classes
    offset = labels.mean(0)
    scale = float(np.sqrt(np.mean((labels - offset) ** 2))) or 1.0
    return offset, scale, ((labels - offset) / scale).astype(np.float32), labels.shape[1]


def _finish(outputs: np.ndarray, offset: np.ndarray | None, scale: float | None) -> np.ndarray:
    """Outputs of the head -> probabilities or values, float32."""
    if offset is None:
        return np.asarray(jax.nn.softmax(outputs, axis=-1))
    return (offset + scale * outputs).astype(np.float32)


def _score(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy, or minus the mean squared error; -inf of what is not finite."""
    if not np.isfinite(predictions).all():
        return -np.inf
    labels = np.asarray(labels)
    if np.issubdtype(labels.dtype, np.integer):
        return float(np.mean(predictions.argmax(1) == labels))
    return -float(np.mean((predictions - labels) ** 2))
