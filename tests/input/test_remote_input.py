"""Training from a bucket is training from the disk, with many requests under way."""

import itertools
import json

import numpy as np
import pytest

from data_tools.errors import InputError
from fmrifm.input.clips import RandomSampler
from fmrifm.input.pipeline import ClipReader, TrainBatches, host_batches, overlapping
from fmrifm.input.sources import parse_sources, union_geometry
from fmrifm.trainer import loop
from tests.data_tools.files.object_store import object_store, upload

FRAMES, BATCH = 16, 24


@pytest.fixture
def bucket(monkeypatch):
    with object_store(monkeypatch) as gate:
        yield gate


def batches_of(text, **windows):
    sources = parse_sources(text)
    reader = ClipReader(sources, union_geometry(sources), FRAMES, requests=12)
    sampler = RandomSampler(sources, FRAMES, 5, **windows)
    return TrainBatches(reader, sampler, BATCH, np.arange(BATCH), 4)


def test_many_requests_are_under_way(bucket, stores):
    url = upload(stores["train"], "train")
    here, there = batches_of(str(stores["train"])), batches_of(url)
    bucket.latency = 0.1
    bucket.faults = itertools.cycle([None, None, None, None, "cut", "busy"])
    found = list(host_batches(there, first_step=1, threads=2, workers=0))
    assert len(found) == 3
    for step, batch in enumerate(found, start=1):
        for name, value in here[step].items():
            np.testing.assert_array_equal(batch[name], value)
    assert 6 < bucket.most <= 12


def test_windows_ask_for_fewer_bytes(bucket, stores):
    url = upload(stores["train"], "train")
    frame = np.prod(parse_sources(url)[0].store.geometry.patch_mask.shape) * 2  # bytes

    def frames_asked(**windows):
        source = batches_of(url, **windows)
        bucket.ranges.clear()
        found, expected = source[0], batches_of(str(stores["train"]), **windows)[0]
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)
        return sum(last + 1 - first for _, first, last in bucket.ranges) / frame

    clips = batches_of(url).clips(0)
    groups = overlapping(clips, FRAMES)
    assert sorted(np.concatenate(groups)) == list(range(BATCH))
    spans = [clips.start[rows].max() + FRAMES - clips.start[rows].min() for rows in groups]
    runs = [set(clips.run[rows]) for rows in groups]
    assert all(len(run) == 1 for run in runs)
    assert frames_asked() == sum(spans) < BATCH * FRAMES  # what overlaps comes once
    assert frames_asked(window=20, clips_per_window=6) <= 4 * 20


def test_training_from_a_bucket(bucket, toy_config, stores, one_device, tmp_path, monkeypatch):
    """With a cache, failures and a change of address, the numbers are those of the disk."""
    url, held = upload(stores["train"], "train"), upload(stores["eval"], "held")
    windows = {"data__clips_per_window": 2, "data__window": 24}
    assert loop.train(toy_config(**windows), tmp_path / "here") == 0
    config = toy_config(
        **windows, data__train=f"{url}?subject=*", data__eval=f"held={held}",
        data__cache_dir=str(tmp_path / "cache"), data__cache_gb=0.01, data__requests=4,
    )  # fmt: skip
    bucket.faults = itertools.cycle([None, None, "busy", None, "cut"])
    assert loop.train(config, tmp_path / "there") == 0

    def numbers(workdir):
        lines = map(json.loads, (tmp_path / workdir / "metrics.jsonl").read_text().splitlines())
        return [{k: v for k, v in x.items() if not k.startswith("perf/")} for x in lines]

    assert numbers("there") == numbers("here")
    assert any((tmp_path / "cache").glob("*/shard-0.*"))

    bucket.faults = itertools.repeat("forbidden")
    config = toy_config(data__train=url, data__eval="")
    with pytest.raises(InputError, match="train/shards/bold-00000.npy cannot be read"):
        loop.train(config, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
