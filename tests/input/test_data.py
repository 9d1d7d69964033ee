"""Training reads what was checked, and a run notices whatever changes in what it reads."""

import json
import shutil

import numpy as np
import pytest

from data_tools.errors import InputError
from data_tools.store.checksums import write_checksums
from data_tools.store.reader import Store
from fmrifm.input.clips import RandomSampler
from fmrifm.input.data import open_data, same_stores, store_digest
from fmrifm.input.pipeline import ClipReader, TrainBatches, host_batches
from fmrifm.runs.config import check_unchanged


@pytest.fixture
def own_store(stores, tmp_path):
    return shutil.copytree(stores["train"], tmp_path / "own")


def edit_line(path, **changes) -> None:
    """Changes the line of the first run, on purpose."""
    first, rest = (path / "runs.jsonl").read_text().split("\n", 1)
    (path / "runs.jsonl").write_text(json.dumps(json.loads(first) | changes) + "\n" + rest)
    write_checksums(path)


def batches_of(sources, steps=20):
    reader = ClipReader(sources, sources[0].store.geometry, 16)
    return TrainBatches(reader, RandomSampler(sources, 16, seed=0), 8, np.arange(8), steps)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_damaged_run_is_never_trained_on(toy_config, own_store, threads):
    store = Store(own_store)
    shard = own_store / store.meta["shards"][0]["file"]
    data = bytearray(shard.read_bytes())
    data[-2] ^= 8  # in the last frame of the last run
    shard.write_bytes(data)
    config = {"data__train": str(own_store), "data__eval": ""}
    sources = open_data(toy_config(**config)).train
    bad, seen = len(store.runs) - 1, 0
    batches = batches_of(sources)
    iterator = host_batches(batches, 0, threads, 0)
    with pytest.raises(InputError, match=f"Run {store.runs[bad]['key']} of {own_store} does not m"):
        for _ in iterator:
            assert bad not in batches.clips(seen).run
            seen += 1
    iterator.close()
    sources = open_data(toy_config(**config, data__verify=False)).train
    assert len(list(host_batches(batches_of(sources), 0, threads, 0))) == 20


def test_the_digest_covers_all_that_training_reads(own_store):
    before = store_digest(Store(own_store))
    line = Store(own_store).runs[0]
    edit_line(own_store, age=33)  # is for probes and reports
    assert store_digest(Store(own_store)) == before
    pixel = int(np.flatnonzero(Store(own_store).geometry.patch_mask)[0])
    for changes in (
        {"missing": [pixel]},
        {"events": [{"onset": 1.0}]},
        {"crc32": 1},
        {"key": "another"},
    ):
        edit_line(own_store, **changes)
        assert store_digest(Store(own_store)) != before
        edit_line(own_store, **{name: line.get(name) for name in changes})
    assert store_digest(Store(own_store)) == before
    # Earlier versions recorded the first parts.
    old = before.rsplit("-", 1)[0]
    assert same_stores({"a": old}, {"a": before}) and not same_stores({}, {"a": before})
    assert not same_stores({"a": before}, {"a": old + "-0000"})


def test_a_list_of_subjects_that_changed_is_noticed(toy_config, stores, tmp_path):
    subjects = sorted({line["subject"] for line in Store(stores["train"]).runs})

    def start(names):
        (tmp_path / "list.txt").write_text("\n".join(names))
        config = toy_config(data__train=f"{stores['train']}?subject={tmp_path}/list.txt")
        data = open_data(config)
        plain = json.loads(config.to_json())
        return {"config": plain, "stores": data.digests(), "chosen": data.chosen()}

    saved = start(subjects[:1])
    check_unchanged(saved, start(subjects[:1]), allow=False)
    with pytest.raises(InputError, match="another config: the runs that data.train chooses"):
        check_unchanged(saved, start(subjects), allow=False)
    del saved["chosen"]  # by an earlier version
    check_unchanged(saved, start(subjects), allow=False)
