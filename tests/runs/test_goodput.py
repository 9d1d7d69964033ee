"""Where the time of a run goes: nothing is lost from the account, whatever kills the run."""

from types import SimpleNamespace

import numpy as np
import pytest

from fmrifm.runs.goodput import LOSSES, STEPS, Account
from fmrifm.trainer.profile import Profile
from fmrifm.trainer.summary import summarize
from fmrifm.trainer.throughput import Throughput, amounts


class Clock:
    """Seconds that pass only when told; in eighths, which files hold exactly."""

    def __init__(self):
        self.now = 1e9

    def __call__(self) -> float:
        return self.now

    def tick(self, eighths: int) -> float:
        self.now += eighths / 8
        return eighths / 8


@pytest.mark.parametrize("seed", range(20))
def test_killed_at_any_moment(tmp_path, seed):
    """A run of 30 steps that saves each 7th, killed again and again, against what truly happened.

    Nobody can know of what comes after the last line before a kill: it counts as down time.
    """
    rng, clock = np.random.default_rng(seed), Clock()
    begin, path, total = clock.now, tmp_path / "goodput.jsonl", 30
    truth, kept, saved, starts = dict.fromkeys((STEPS, *LOSSES), 0.0), {}, 0, 0
    ticks = lambda: clock.tick(rng.integers(1, 50))  # noqa: E731
    while len(kept) < total:
        lost = [step for step in kept if step > saved]
        truth["repeated_steps"] += sum(kept.pop(step) for step in lost)
        starts, kill_at = starts + 1, saved + rng.integers(1, 15)
        account = Account(clock=clock)
        truth["start"] += ticks()
        account.take_up(path, saved)
        with account.spent("compile"):
            unknown = ticks()
        for step in range(saved + 1, total + 1):
            with account.spent(STEPS):
                duration, wait = ticks(), ticks()
                account.move(wait, "data_wait")
                if step == kill_at:
                    truth["down_time"] += unknown + duration + wait
                    break
                account.note(step)
                kept[step] = duration
                truth["data_wait"] += wait
                if step == saved + 1:
                    truth["compile"] += unknown
                unknown = 0
                if step % 7 == 0:
                    with account.spent("evaluation"):
                        truth["evaluation"] += ticks()
                    with account.spent("checkpoint"):
                        truth["checkpoint"] += ticks()
                    account.note(step)
                    saved = step
        else:
            break
        if rng.random() < 0.5:  # cut off amid a line
            with open(path, "a") as file:
                file.write('{"time": 17')
        truth["down_time"] += ticks()
    truth[STEPS] = sum(kept.values())
    assert starts > 1 and account.starts == starts
    assert account.seconds == truth
    assert sum(truth.values()) == clock.now - begin
    told = account.metrics()
    shares = [v for k, v in told.items() if k == "perf/goodput" or k.startswith("perf/lost/")]
    assert len(shares) == len(truth) and sum(shares) == pytest.approx(1)
    assert told["perf/wall_seconds"] == clock.now - begin


@pytest.mark.parametrize("done", [False, True])
def test_stopped_and_ended(tmp_path, done):
    """What is saved at a stop is not lost; after its end a run is not down but done."""
    clock, path = Clock(), tmp_path / "goodput.jsonl"
    for step in (0, 5):
        account = Account(clock=clock)
        clock.tick(8)
        account.take_up(path, step)
        with account.spent(STEPS):
            clock.tick(80)
        account.note(step + 5)
        account.done = done
        with pytest.raises(KeyError), account.spent("checkpoint"):
            clock.tick(16)
            raise KeyError
        account.close()
        clock.tick(400)
    account = Account(clock=clock)
    account.take_up(path, 10)
    seconds = account.seconds
    assert seconds[STEPS] == 20 and seconds["checkpoint"] == 4 and seconds["repeated_steps"] == 0
    assert seconds["down_time"] == (0 if done else 100)


def test_a_clock_that_is_behind(tmp_path):
    """On another machine, by ten minutes: the account goes on all the same."""
    clock, path = Clock(), tmp_path / "goodput.jsonl"
    account = Account(clock=clock)
    account.take_up(path, 0)
    with account.spent(STEPS):
        clock.tick(80)
    account.note(5)
    clock.now -= 600
    account = Account(clock=clock)
    account.take_up(path, 5)
    with account.spent(STEPS):
        clock.tick(160)
    assert account.seconds[STEPS] == 30 and sum(account.seconds.values()) == 30


@pytest.mark.parametrize("loader, wait", [(0.5, 0), (1.1, 0.1), (4.0, 3.0)])
def test_data_wait_is_what_devices_wait(monkeypatch, loader, wait):
    """Steps take a second; with a batch each `loader` seconds they may have to wait for it."""
    monkeypatch.setattr(Throughput, "_end_of", lambda _, end: end)
    told = ({"peak_bytes_in_use": 5}, None, {}, {"peak_bytes_in_use": 7})
    devices = [SimpleNamespace(memory_stats=lambda stats=stats: stats) for stats in told]
    monkeypatch.setattr("jax.local_devices", lambda: devices)
    clock = Clock()
    account = Account(clock=clock)

    def batches(first):
        for k in range(1, 41):  # each one is read while the ones before are used
            clock.now = max(clock.now, first + k * loader)
            yield k

    end, source = clock.now, batches(clock.now)
    with account.spent(STEPS):
        throughput = Throughput(amounts(8, 80, 160, 24e12, 2, 4e12), account)
        for k in range(40):
            throughput.next_batch(source)
            before, end = end, max(end, clock.now) + 1.0
            throughput.follow(end)
            clock.now = max(clock.now, before)
            if k == 19:
                throughput.read()  # the first batches take their time
        clock.now = end
        throughput.drain()
    found, period = throughput.read(), 1 + wait
    throughput.close()
    expected = {
        **{f"perf/step_time{which}": period for which in ("", "_p50", "_p90", "_p99")},
        "perf/clips_per_second": 8 / period,
        "perf/clips_per_second_per_chip": 4 / period,
        "perf/encoder_tokens_per_second": 80 / period,
        "perf/decoder_tokens_per_second": 160 / period,
        "perf/mfu": 24 / 8 / period,
        "perf/data_wait_fraction": wait / period,
        "perf/hbm_peak_bytes": 7,
    }
    assert found == pytest.approx(expected, abs=1e-6)
    assert account.seconds[STEPS] == pytest.approx(40, abs=1e-4)
    assert sum(account.seconds.values()) == clock.now - 1e9


def test_the_screen():
    clock = Clock()
    account = Account(clock=clock)
    clock.tick(80)
    with account.spent(STEPS):
        clock.tick(240)
    speed = {f"perf/step_time_p{p}": p / 100 for p in (50, 90, 99)}
    speed |= {name: x / 0.5 for name, x in amounts(8, 80, 160, 24e12, 2, 4e12).items()}
    speed["perf/hbm_peak_bytes"] = 3 * 2**30
    shown = {"train/loss": 0.5, "train/lr": 1e-3, "eval/held/loss": 0.25}
    lines = summarize((20, 60, 100), 8, account, speed, shown).splitlines()
    table = dict(line.strip().split("  ", 1) for line in lines)
    table = {name: " ".join(value.split()) for name, value in table.items()}
    assert len({len(line) - len(line[20:].lstrip()) for line in lines}) == 1, lines  # aligned
    assert table == {
        "steps": "60 of 100, from step 20 on in this start",
        "clips": "480",
        "wall time": "00:40 since the first start (1 in all)",
        "goodput": "75.0 % 00:30",
        "start": "25.0 % 00:10",
        "step time": "median 0.5 s, 90 % within 0.9 s, 99 % within 0.99 s",
        "clips a second": "16.0, 8.0 a chip",
        "tokens a second": "encoder 160, decoder 320",
        "compile time": "0.0 s",
        "utilisation (MFU)": "600.0 %",
        "memory peak (HBM)": "3.00 GiB a chip",
        "train/loss": "0.5000",
        "eval/held/loss": "0.2500",
    }


def test_profiled_steps(monkeypatch, tmp_path):
    """A start amid the steps writes of those that are left; one that fails closes its trace."""
    calls = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda _: calls.append("start"))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: calls.append("stop"))
    for first, expected in ((1, [3, "start", 5, "stop"]), (4, [4, "start", 5, "stop"]), (6, [])):
        profile = Profile(range(3, 6), tmp_path, Account())
        calls.clear()
        for step in range(first, 9):
            if profile.begins_with(step):
                calls.append(step)
                profile.start()
            if profile.ends_with(step):
                calls.append(step)
                profile.close()
        profile.close()
        assert calls == expected
