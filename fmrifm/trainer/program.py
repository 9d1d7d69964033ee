"""From a config and a geometry to what a run computes with: model, mesh and compiled functions.

Nothing is written here and no array is made before all checks have passed.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from data_tools.errors import InputError, check_choice
from data_tools.spaces.geometry import Geometry
from fmrifm.input.augment import Augmentation
from fmrifm.input.clips import list_clips, make_sampler, pick_evenly
from fmrifm.input.data import Data
from fmrifm.input.pipeline import ClipReader, EvalBatches, TrainBatches, batch_shapes, local_rows
from fmrifm.input.preprocess import Tokenizer, cut_geometry
from fmrifm.input.sources import Source
from fmrifm.model.attention import choose_form
from fmrifm.model.blocks import Compute
from fmrifm.model.mae import MaskedAutoencoder, boxed_shapes, init_params
from fmrifm.model.objective import Objective
from fmrifm.model.options import options_from_config
from fmrifm.published.space_geometry import load_components
from fmrifm.runs.checkpoint import TrainState
from fmrifm.runs.config import SEED, check_numbers
from fmrifm.trainer.mesh import (
    RULES,
    batch_sharding,
    check_batch,
    make_mesh,
    replicated,
    state_shardings,
)
from fmrifm.trainer.optimizer import make_optimizer, make_schedule, peak_learning_rate
from fmrifm.trainer.step import (
    Task,
    init_state,
    make_reconstruct,
    make_train_step,
    make_update,
    stream_key,
)

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


# Sections with classes of their own (model, augment, mesh) are checked there.
RANGES = {
    SEED: "seed",
    "[1, inf)": "batch_size total_steps log_every checkpoint_every keep_checkpoints "
    "data.num_frames data.requests data.clips_per_window optim.accumulation",
    "[0, inf)": "watchdog_minutes eval_every keep_every figures probe.every data.eval_clips "
    "data.stride data.window data.threads data.workers model.patch optim.warmup_steps "
    "optim.weight_decay optim.clip_norm",
    "(0, inf)": "data.cache_gb optim.lr optim.base_lr",
    "[0, 1)": "optim.b1 optim.b2",
    "(-inf, inf)": "data.hrf_delay",
}


def check_config(config: ConfigDict) -> None:
    """Raises InputError for numbers that make no sense."""
    check_numbers(config, RANGES)
    if config.optim.warmup_steps > config.total_steps:
        raise InputError(
            f"optim.warmup_steps={config.optim.warmup_steps} exceeds "
            f"total_steps={config.total_steps}: lower it."
        )
    check_choice("compute_dtype", config.compute_dtype, DTYPES)


class Program:
    """The model on a mesh: shapes, shardings and jitted functions of one config and geometry.

    Attributes:
      config, mesh: what it was made from.
      options: of the model.
      geometry, cut: that of training batches, as stored and in the patches of the model.
      frames_read: frames that the host reads for a training clip.
      shapes, shardings: trees of the train state.
    """

    def __init__(
        self,
        config: ConfigDict,
        geometry: Geometry,
        devices: Sequence[jax.Device] | None = None,
        unroll: bool = False,
    ):
        """
        Args:
          devices: of the mesh; all by default.
          unroll: see `Compute`.
        """
        check_config(config)
        self.config, self.geometry = config, geometry
        self.augmentation = Augmentation(**config.augment)
        self.frames_read = self.augmentation.frames_read(config.data.num_frames)
        self.mesh = make_mesh(config.mesh, devices)
        check_batch(config.batch_size, config.optim.accumulation, self.mesh)
        self.cut = cut_geometry(geometry, config.model.patch)
        self.options = options_from_config(config.model, self.cut, config.data.num_frames)
        if self.options.decoding == "none":
            raise InputError("model.decoding='none' has nothing to train: choose another.")
        self._check_components()
        if self.options.network_maps and self.augmentation.crop_scale < 1:
            raise InputError(
                "model.network_maps belong to places of the cortex, and crops move these: set "
                "augment.crop_scale=1."
            )
        tensor = self.mesh.shape["tensor"]
        for name in ("num_heads", "decoder_num_heads"):
            if getattr(self.options, name) % tensor:
                raise InputError(
                    f"mesh.tensor={tensor} does not divide model.{name}="
                    f"{getattr(self.options, name)}: choose a divisor."
                )
        form = choose_form(config.attention, self.mesh.devices.flat[0].platform)
        if form == "cudnn" and config.compute_dtype != "bfloat16":
            raise InputError(
                "attention=cudnn takes compute_dtype=bfloat16 only: change one of them."
            )
        compute = Compute(DTYPES[config.compute_dtype], form, unroll)
        self.model = MaskedAutoencoder(self.options, compute)
        self.task = self.make_task(geometry)
        given = ("network_maps",) if self.options.network_maps else ()
        self._tx = make_optimizer(config.optim, given)
        init = functools.partial(init_state, tx=self._tx)
        boxed = jax.eval_shape(init, boxed_shapes(self.options))
        self.shapes = nn.unbox(boxed)
        self.shardings = state_shardings(boxed, self.mesh)
        self.batch_sharding = batch_sharding(self.mesh)
        self.train_step = self._jit_train_step()

    def make_task(self, geometry: Geometry) -> Task:
        """The task on another mask of the same grid; checks that something is predicted."""
        options = self.options
        tokenizer = Tokenizer(
            geometry,
            options.num_frames,
            options.t_patch,
            options.patch_shape,
            self.config.data.normalize,
            self.augmentation,
        )
        units = tokenizer.geometry.n_patches * (1 if options.masking == "tube" else options.slots)
        if not 0 < options.visible_count < units:
            raise InputError(
                f"model.mask_ratio={options.mask_ratio} leaves {options.visible_count} visible of "
                f"{units} with cortex, so nothing is seen or nothing predicted: change it."
            )
        return Task(tokenizer, Objective(self.model, tokenizer.geometry))

    def _check_components(self) -> None:
        wanted, source = self.options.target_norm == "pca", self.config.model.pca_components
        if source and not wanted:
            raise InputError("model.pca_components is for model.target_norm='pca': leave it out.")
        if wanted and not source and not self.config.init_from:
            raise InputError(
                "model.target_norm='pca' needs components: set model.pca_components to a file of "
                "them, or to cortex_mae for those of the installed package."
            )

    @functools.cached_property
    def components(self) -> np.ndarray | None:
        """Those that targets are freed of; None where there are none or a warm start has them."""
        model = self.config.model
        if not model.pca_components:
            return None
        return load_components(model.pca_components, model.pca_norm_nc, self.geometry.mask.shape)

    @staticmethod
    def learned(params: dict) -> dict:
        """Parameters without what is given, the components."""
        return {name: part for name, part in params.items() if name != "target_norm"}

    def initial_state(self, seed: int) -> TrainState:
        """A fresh state, made already sharded."""
        components = self.components

        def make(key: jax.Array) -> TrainState:
            state = nn.unbox(init_state(init_params(self.model, key), self._tx))
            if components is None:
                return state
            given = {"target_norm": {"components": jnp.asarray(components)}}
            return state.replace(params={**state.params, **given})

        with self.scope():
            make = jax.jit(make, out_shardings=self.shardings)
            return make(stream_key(seed, "init"))

    def with_network_maps(self, state: TrainState, maps: dict[str, np.ndarray]) -> TrainState:
        """A state with these network maps; those of the first process count."""
        maps = multihost_utils.broadcast_one_to_all(maps)
        maps = jax.device_put(maps, self.shardings.params["network_maps"])
        return state.replace(params={**state.params, "network_maps": maps})

    def state_with_params(self, params) -> TrainState:
        """A fresh state around given parameters (a tree of host arrays or of device arrays)."""
        params = jax.device_put(params, self.shardings.params)
        make = jax.jit(lambda p: init_state(p, self._tx), out_shardings=self.shardings)
        with self.scope():
            return make(params)

    def abstract_state(self) -> TrainState:
        """Shapes with shardings, to restore into."""
        return jax.tree.map(lambda x, s: x.update(sharding=s), self.shapes, self.shardings)

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """The mesh and the logical axis rules; jitted functions are called inside it."""
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(RULES):
            yield

    def _jit_train_step(self) -> Callable:
        config = self.config
        peak = peak_learning_rate(config.optim, config.batch_size)
        schedule = make_schedule(peak, config.optim.warmup_steps, config.total_steps)
        step = make_train_step(
            self.task,
            make_update(self._tx, schedule, config.optim.clip_norm, self.shardings.params),
            self.shardings.params,
            seed=config.seed,
            accumulation=config.optim.accumulation,
        )
        return jax.jit(
            step,
            in_shardings=(self.shardings, self.batch_sharding),
            out_shardings=(self.shardings, replicated(self.mesh)),
            donate_argnums=0,
        )

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Of a global training batch, with its sharding."""
        rows, with_scale = self.config.batch_size, self.config.data.no_coord_normalize
        shapes = batch_shapes(self.geometry, self.frames_read, rows, with_scale)
        return {name: x.update(sharding=self.batch_sharding) for name, x in shapes.items()}

    def lower_train_step(self) -> jax.stages.Lowered:
        """The training step, traced and not yet compiled."""
        with self.scope():
            return self.train_step.lower(self.abstract_state(), self.batch_shapes())

    def eval_functions(self, task: Task) -> tuple[Callable, Callable]:
        """Jitted (params, batch) -> loss sums, and -> reconstructions of the first clips."""
        reconstruct = make_reconstruct(task)

        def eval_step(params, batch):
            return task.evaluate(params, batch)[-1].sums

        def reconstruct_first(params, batch):
            return reconstruct(params, jax.tree.map(lambda x: x[: self.config.figures], batch))

        shardings = {
            "in_shardings": (self.shardings.params, self.batch_sharding),
            "out_shardings": replicated(self.mesh),
        }
        return jax.jit(eval_step, **shardings), jax.jit(reconstruct_first, **shardings)

    def train_batches(self, data: Data) -> TrainBatches:
        """This host's rows of every training batch."""
        config = self.config
        return TrainBatches(
            self.reader(data.train, data.geometry, self.frames_read),
            make_sampler(data.train, self.frames_read, config.seed, config.data),
            config.batch_size,
            local_rows(self.batch_sharding, config.batch_size),
            config.total_steps,
        )

    def reader(
        self, sources: list[Source], geometry: Geometry, num_frames: int | None = None
    ) -> ClipReader:
        """Reads clips of sources as the config says; by default of the model's frames."""
        data, num_frames = self.config.data, num_frames or self.config.data.num_frames
        return ClipReader(sources, geometry, num_frames, data.no_coord_normalize, data.requests)

    def eval_batches(self, sources: list[Source], geometry: Geometry) -> EvalBatches:
        """This host's rows of the batches that score every clip, side by side, once."""
        data = self.config.data
        clips = pick_evenly(list_clips(sources, data.num_frames), data.eval_clips)
        batch_size = self.config.batch_size
        return EvalBatches(
            self.reader(sources, geometry),
            sources,
            clips,
            batch_size,
            local_rows(self.batch_sharding, batch_size),
        )
