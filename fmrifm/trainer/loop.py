"""The training loop: where a run starts, what it does each step, and how it ends."""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from tqdm import tqdm

from data_tools.errors import InputError
from data_tools.files.atomic import write_bytes
from fmrifm.input.data import open_data
from fmrifm.input.pipeline import host_batches, on_devices
from fmrifm.model.files import ModelFiles, save_model
from fmrifm.processes import STOPPED_EXIT_CODE
from fmrifm.runs.checkpoint import Checkpoints, TrainState
from fmrifm.runs.config import check_unchanged, config_dict
from fmrifm.runs.goodput import STEPS, Account
from fmrifm.runs.metrics_writer import MetricsWriter, check_wandb
from fmrifm.runs.provenance import measure, record_start
from fmrifm.runs.watchdog import STEPPING, WAITING, Watchdog
from fmrifm.runs.workdir import Workdir, check_workdir
from fmrifm.trainer.evaluate import Evaluator
from fmrifm.trainer.linear_fit import LinearFit
from fmrifm.trainer.mesh import replicated, to_devices
from fmrifm.trainer.profile import Profile, parse_profile
from fmrifm.trainer.program import Program, check_config
from fmrifm.trainer.run_record import RunRecord
from fmrifm.trainer.stopping import StopRequestedError, StopSignal, non_finite
from fmrifm.trainer.summary import describe_losses, describe_start, summarize
from fmrifm.trainer.throughput import Throughput, step_work
from fmrifm.trainer.warm_start import warm_start

# Scores of a model by name, and what makes that of config.probe, a workdir and a model that has no
# weights yet.
Probe = Callable[[ModelFiles], dict[str, float]]
MakeProbe = Callable[[ConfigDict, Path, ModelFiles], Probe]


def train(
    config: ConfigDict,
    workdir: str | os.PathLike,
    allow_config_change: bool = False,
    make_probe: MakeProbe | None = None,
    profile: str | None = None,
    began: float | None = None,
    max_hours: float | None = None,
) -> int:
    """Pretrains a model, continuing where an earlier run in the workdir stopped.

    Args:
      config: see configs/pretrain.py.
      workdir: gets config.json, provenance.json, metrics.jsonl, goodput.jsonl, TensorBoard events,
        checkpoints/, figures/, model/; a directory, or a gs:// URL.
      allow_config_change: continue although the config or a store has changed.
      make_probe: makes what scores models of steps that config.probe asks for.
      profile: START:COUNT, steps of which profile/ gets a JAX profile.
      began: Unix time at which the process started, for the account of its time.
      max_hours: stop after this time as after a signal.

    Returns:
      The exit code: 0, or STOPPED_EXIT_CODE after a signal or `max_hours`.

    Raises:
      InputError: bad config, store or workdir; nothing has been written then.
      NonFiniteError: the loss, gradient or parameters were not finite; the last good checkpoint is
        intact.
    """
    run = _Run(config, workdir, make_probe, profile, began)
    with StopSignal(max_hours) as stop:
        try:
            return run.start(allow_config_change, stop)
        finally:
            run.close()


class _Run:
    """One run of the loop; its methods are in the order in which they happen."""

    def __init__(self, config: ConfigDict, workdir, make_probe, profile, began):
        """Checks and opens everything and writes nothing; arguments as of `train`."""
        self.config, self.account = config, Account(began)
        check_config(config)
        check_workdir(workdir)
        self.workdir = Workdir(workdir)
        local, steps = self.workdir.local, parse_profile(profile, config.total_steps)
        self.profile = Profile(steps, local / "profile", self.account)
        self.watchdog: Watchdog | None = None
        check_wandb(config.wandb_project)
        self.data = open_data(config)
        self.program = Program(config, self.data.geometry)
        self.batches = self.program.train_batches(self.data)
        self.fit = LinearFit(self.program, self.data)
        fit = self.fit if config.eval_linear else None
        self.evaluator = Evaluator(self.program, self.data.evals, local / "figures", fit)
        self.first_host = jax.process_index() == 0
        self.record = RunRecord(config, self.data, self.program)
        self.probe = self.open_probe(make_probe)
        self.metrics: MetricsWriter | None = None
        self.checkpoints: Checkpoints | None = None
        self.throughput: Throughput | None = None
        self.pending: tuple[int, dict] | None = None  # logged one step late
        self.shown: dict[str, float] = {}  # the newest value of each metric
        self.best: dict | None = None  # of the evaluations named by keep_best

    def open_probe(self, make_probe: MakeProbe | None) -> Probe | None:
        every, eval_every = self.config.probe.every, self.config.eval_every
        if not every or make_probe is None:
            return None
        if not eval_every or every % eval_every:
            raise InputError(
                f"probe.every={every} is no multiple of eval_every={eval_every}: models are probed "
                "where they are evaluated."
            )
        self.workdir.check_shared("probe.every")
        return make_probe(self.config.probe, self.workdir.local, self.record.files({}, 0))

    def start(self, allow_config_change: bool, stop: StopSignal) -> int:
        config = self.config
        # A first start reads what it starts from before the workdir is touched.
        # All processes do as the first one, whatever another has made in the meantime.
        resuming = multihost_utils.broadcast_one_to_all(self.workdir.checkpoints.is_dir())
        state = None if resuming else self.first_state()
        self.workdir.open()
        self.checkpoints = Checkpoints(
            self.workdir.checkpoints, config.keep_checkpoints, config.keep_every
        )
        evaluated = True
        if self.checkpoints.latest_step is not None:
            meta, state = self.checkpoints.restore_newest(
                self.program.abstract_state(),
                lambda meta: check_unchanged(meta, self.record.meta(), allow_config_change),
            )
            evaluated = self.take_over(meta)
        elif state is None:
            state = self.first_state()
        first_step = int(state.step)
        if self.first_host:
            local, shown = self.workdir.local, config_dict(config)
            (local / "non_finite.json").unlink(missing_ok=True)
            write_bytes(local / "config.json", json.dumps(shown, indent=1).encode())
            record_start(local, shown, self.data.digests(), measure(config, self.data))
            self.metrics = MetricsWriter(
                local, first_step, config.wandb_project, shown, self.workdir.place
            )
            self.account.take_up(local / "goodput.jsonl", first_step)
            # The line may have been damaged since, and tables refuse a run without it.
            due = first_step and self.data.evals and self.is_evaluated(first_step)
            evaluated &= not due or any(name.startswith("eval/") for name in self.metrics.kept)
        evaluated = bool(multihost_utils.broadcast_one_to_all(evaluated))
        self.say(describe_start(self.program, first_step, self.workdir.place))
        if first_step < config.total_steps or not evaluated:
            with self.account.spent("evaluation"):
                self.evaluator.prepare(state.params)
        self.fit = None  # nobody needs its components any more
        if not evaluated:
            with self.account.spent("evaluation"):
                self.evaluate(state, first_step)
            if self.is_probed(first_step):
                self.run_probe(state, first_step)
        state, stopped = self.loop(state, first_step, stop)
        with self.account.spent("checkpoint"):
            self.checkpoints.wait()
            model = None if stopped else self.model(state)
            if model and self.first_host:
                save_model(self.workdir.local / "model", model)
        self.account.done = not stopped
        steps = (first_step, int(state.step), config.total_steps)
        speed = self.throughput.read_all() if self.throughput else {}
        self.say(summarize(steps, config.batch_size, self.account, speed, self.shown))
        if stopped:
            self.say(f"Stopped after step {steps[1]}; the same command continues.")
            return STOPPED_EXIT_CODE
        self.workdir.finish()
        self.say(f"Done. Outputs are in {self.workdir.place}.")
        return 0

    def first_state(self) -> TrainState:
        if self.config.init_from is None:
            state = self.program.initial_state(self.config.seed)
            if not self.program.options.network_maps:
                return state
            return self.program.with_network_maps(state, self.fit.network_maps())
        stores = [source.store for source in self.data.train]
        state, descent = warm_start(self.program, self.config.init_from, stores)
        self.record.starts_from(descent)
        return state

    def take_over(self, meta: dict) -> bool:
        """Continues what lies beside a checkpoint; returns whether its evaluation was made."""
        self.record.continues(meta)
        if meta["best"] and meta["best"]["set"] == self.config.keep_best:
            self.best = meta["best"]
            self.checkpoints.keep_best(self.best["step"])
        return meta["evaluated"]

    def loop(self, state: TrainState, first_step: int, stop: StopSignal):
        """Trains from first_step to the end or a signal."""
        config, program, account = self.config, self.program, self.account
        if first_step == config.total_steps:
            return state, False
        with account.spent("compile"):
            train_step = program.lower_train_step().compile()
        self.throughput = throughput = Throughput(step_work(program), account)
        host = host_batches(self.batches, first_step, config.data.threads, config.data.workers)
        batches = on_devices(host, lambda batch: to_devices(batch, program.batch_sharding))
        progress = tqdm(
            total=config.total_steps, initial=first_step, unit="step", desc="pretrain",
            disable=None if self.first_host else True, dynamic_ncols=True,
        )  # fmt: skip
        stopped = False
        self.watchdog = watchdog = Watchdog(config.watchdog_minutes, self.workdir.local / "hang")
        reader = contextlib.closing(self.batches.reader)
        with contextlib.closing(host), reader, progress, program.scope(), account.spent(STEPS):
            for step in range(first_step + 1, config.total_steps + 1):
                if self.profile.begins_with(step):
                    throughput.drain()
                    self.profile.start()
                    throughput.restart()
                with jax.profiler.StepTraceAnnotation("train", step_num=step):
                    watchdog.note(step, WAITING)
                    try:
                        with stop.waiting():
                            batch = throughput.next_batch(batches)
                    except StopRequestedError:
                        self.stop_before(step, state, first_step, progress)
                        return state, True
                    watchdog.note(step, STEPPING)
                    state, metrics = train_step(state, batch)
                throughput.follow(metrics["loss"])
                self.log_pending(progress)
                last = step == config.total_steps
                stopped = stop.at(step) and not last
                if step % config.log_every == 0 or last:
                    self.pending = (step, metrics)
                progress.update()
                evaluate = self.is_evaluated(step)
                save = last or stopped or step % config.checkpoint_every == 0
                profiled = self.profile.ends_with(step)
                if evaluate or save or profiled:
                    self.settle(state, progress)
                    with watchdog.paused():
                        if profiled:
                            self.profile.close()
                        self.after_step(state, step, evaluate, save, stopped)
                    throughput.restart()
                if stopped:
                    break
        return state, stopped

    def settle(self, state: TrainState, progress: tqdm) -> None:
        """Waits for the newest step, logs what is due, and checks its numbers."""
        self.throughput.drain()
        self.log_pending(progress)
        self.check_finite(int(state.first_bad_step))

    def after_step(self, state: TrainState, step: int, evaluate: bool, save: bool, stopped: bool):
        """Evaluates, saves and probes, as far as it is due.

        Evaluation comes first, so that metrics are complete up to a checkpoint. A run that has to
        stop may have seconds left: it is evaluated when it continues.
        """
        probe = evaluate and not stopped and self.is_probed(step)
        if evaluate and not stopped:
            with self.account.spent("evaluation"):
                save |= self.evaluate(state, step)
        if save or probe:
            with self.account.spent("checkpoint"):
                self.save(state, step, evaluated=not (evaluate and stopped))
        if probe:
            self.run_probe(state, step)

    def stop_before(self, step: int, state: TrainState, first_step: int, progress: tqdm) -> None:
        """Saves the state before a step whose batch has not come."""
        self.settle(state, progress)
        if step - 1 > first_step:
            with self.account.spent("checkpoint"):
                self.save(state, step - 1, evaluated=True)

    def log_pending(self, progress: tqdm) -> None:
        """Reads the last logged step's numbers, by now one step old."""
        if self.pending is None:
            return
        (step, metrics), self.pending = self.pending, None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self.check_finite(int(values.pop("first_bad_step")))
        perf = self.throughput.read() | self.account.metrics()
        if not self.first_host:
            return
        self.write(step, {f"train/{k}": v for k, v in values.items()} | perf)
        rate = perf["perf/clips_per_second"]
        progress.set_postfix_str(f"loss {values['loss']:.4f}, {rate:.1f} clips/s", refresh=False)
        if progress.disable:
            left = (self.config.total_steps - step) * perf["perf/step_time"]
            self.say(
                f"step {step}/{self.config.total_steps}  loss {values['loss']:.4f}  "
                f"{rate:.1f} clips/s  {tqdm.format_interval(left)} left"
            )

    def evaluate(self, state: TrainState, step: int) -> bool:
        """Scores the evaluation sets; returns whether this is the best step so far."""
        values = self.evaluator(state.params, step)
        if values and self.first_host:
            self.write(step, values)
            losses = "  ".join(f"{name} {text}" for name, text in describe_losses(values))
            self.say(f"step {step}  {losses}")
        name = self.config.keep_best
        if name is None:
            return False
        loss = values[f"eval/{name}/loss"]
        if self.best is not None and self.best["loss"] <= loss:
            return False
        self.best = {"set": name, "step": step, "loss": loss}
        self.checkpoints.keep_best(step)
        return True

    def is_evaluated(self, step: int) -> bool:
        every, last = self.config.eval_every, step == self.config.total_steps
        return last or bool(every and step % every == 0)

    def is_probed(self, step: int) -> bool:
        every = self.config.probe.every
        return self.probe is not None and (step % every == 0 or step == self.config.total_steps)

    def run_probe(self, state: TrainState, step: int) -> None:
        """Probes the model of a step once that is saved: what kills a probe costs no step."""
        with self.account.spent("checkpoint"):
            self.checkpoints.wait()
        with self.account.spent("evaluation"):
            values = self.probe(self.model(state))
        if values and self.first_host:
            self.write(step, values)

    def write(self, step: int, values: dict[str, float]) -> None:
        self.metrics.write(step, values)
        self.account.note(step)
        self.workdir.upload_soon()
        self.shown |= values

    def save(self, state: TrainState, step: int, evaluated: bool) -> None:
        if self.first_host:
            self.metrics.sync()
            self.account.note(step)
            self.account.sync()
        self.workdir.upload()  # so that no curve has a gap where another host goes on
        meta = {**self.record.meta(), "best": self.best, "evaluated": evaluated}
        self.checkpoints.save(state, step, meta)

    def check_finite(self, first_bad_step: int) -> None:
        """Raises NonFiniteError naming the step (counted from 1) and the runs of its batch."""
        if first_bad_step < 0:
            return
        self.checkpoints.wait()
        last, path = self.checkpoints.latest_step, self.workdir.local / "non_finite.json"
        raise non_finite(self.batches, self.data, first_bad_step, last, path)

    def model(self, state: TrainState) -> ModelFiles:
        """The model as it is now, on the host."""
        gather = jax.jit(lambda params: params, out_shardings=replicated(self.program.mesh))
        return self.record.files(jax.device_get(gather(state.params)), int(state.step))

    def say(self, text: str) -> None:
        if self.first_host:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # one that fails does not keep the others open
            files = (self.workdir, self.account, self.metrics)  # the first one is closed last
            work = (self.checkpoints, self.throughput, self.profile, self.watchdog)
            for part in filter(None, (*files, *work)):
                stack.callback(part.close)
