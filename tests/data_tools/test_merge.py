"""Part-stores merge to the very bytes of one conversion; what is no part of it is refused."""

import functools
import json
import shutil
from unittest import mock

import numpy as np
import pytest

from data_tools import merge
from data_tools.errors import InputError
from data_tools.merge import main, merge_stores
from data_tools.spaces.geometry import Geometry
from data_tools.store.reader import Store
from data_tools.store.writer import StoreWriter
from tests.data_tools.store.small_stores import small_geometry, write_small_store
from tests.data_tools.store.test_store import all_bytes, fast_disk, killed_at  # noqa: F401

KEYS = tuple(f"sub-{i:02d}_run {i % 3}/é" for i in range(11))
SKIPPED = [
    json.dumps({"key": f"bad-{i}", "path": f"raw/{i}.gii", "reason": "It is a cat."}) + "\n"
    for i in range(4)
]


def fields(key):
    return {
        **{"dataset": "toy", "subject": key[4:6], "tr": 1.0, "source_tr": 0.72},
        **{"events": [{"onset": 0.1 + 0.2, "duration": None, "trial_type": "face"}]},
        **{"qc": {"tsnr": 1 / 3, "missing": 0}, "family": None},
    }


def write(path, keys, skipped=(), **settings):
    runs = {key: fields(key) for key in keys}
    extra = {"skipped.jsonl": "".join(skipped).encode()} if skipped else None
    settings = {"provenance": {"tool": "data_tools.convert"}, "restricted": ["family"]} | settings
    return write_small_store(path, runs, extra, **settings)


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    """Four shards or so, so that runs of one part do not stay together."""
    geometry = small_geometry()
    size = 20 * geometry.n_patches * geometry.patch_dim * 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "StoreWriter", functools.partial(StoreWriter, shard_bytes=size))
        yield size


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small_shards):
    path = tmp_path_factory.mktemp("whole") / "store"
    return write(path, KEYS, SKIPPED, shard_bytes=small_shards)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """What three machines leave that take every third run; one of them skipped nothing."""
    root = tmp_path_factory.mktemp("parts")
    skipped = (SKIPPED[1::2], [], SKIPPED[0::2])
    return [write(root / str(i), KEYS[i::3], skipped[i]) for i in range(3)]


def test_merged_is_what_one_conversion_gives(whole, parts, tmp_path, capsys):
    store = merge_stores(parts[::-1], tmp_path / "a")
    assert len(store.meta["shards"]) > 2 and store.has_scale
    assert all_bytes(store.path) == all_bytes(whole.path)
    main([*(str(part.path) for part in parts), f"--output={tmp_path / 'b'}"])
    assert all_bytes(tmp_path / "b") == all_bytes(whole.path)
    said = capsys.readouterr().out
    assert "runs: 11" in said and "Runs skipped: 4" in said
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_no_scale_unless_every_part_has_it(tmp_path):
    without = {"mean": None, "std": None}
    a = write_small_store(tmp_path / "a", {"a": {}, "b": {}})
    b = write_small_store(tmp_path / "b", {"c": without})
    store = merge_stores([a, b], tmp_path / "merged")
    whole = write_small_store(tmp_path / "whole", {"a": {}, "b": {}, "c": without})
    assert not store.has_scale and all_bytes(store.path) == all_bytes(whole.path)


def test_provenance_and_restricted_fields_are_joined(tmp_path):
    settings = {"a": "x", "b": "y", "c": "x"}
    stores = [
        write_small_store(tmp_path / key, {key: {}}, provenance={"input": said}, restricted=[key])
        for key, said in settings.items()
    ]
    inner = merge_stores(stores[:2], tmp_path / "inner")
    outer = merge_stores([stores[2], inner], tmp_path / "outer")
    assert outer.meta["provenance"] == {
        "tool": "data_tools.merge",
        "parts": [{"input": "x"}, {"input": "y"}],
    }
    assert outer.meta["restricted"] == ["a", "b", "c"]
    assert all_bytes(merge_stores(stores, tmp_path / "flat").path) == all_bytes(outer.path)


@pytest.mark.filterwarnings("ignore:.*fork")  # the child touches nothing but files
def test_kill_anywhere_and_resume(whole, parts, tmp_path, fast_disk):  # noqa: F811
    path, step = tmp_path / "store", 0
    while killed_at(step, lambda: merge_stores(parts, path)):
        if not path.exists():
            merge_stores(parts, path)
        assert all_bytes(path) == all_bytes(whole.path), f"killed at step {step}"
        shutil.rmtree(path)
        shutil.rmtree(tmp_path / "store.partial", ignore_errors=True)
        step += 9
    assert step > 90


def test_resuming_copies_only_what_is_not_there(parts, tmp_path, monkeypatch):
    """Runs that are there are kept, but for one that its part holds in a newer version."""
    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "finish", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            merge_stores(parts[:2], tmp_path / "store")
    newer = {key: fields(key) | {"task": "rest"} for key in KEYS[1::3]}
    newer = write_small_store(tmp_path / "newer", newer)
    copied = mock.Mock(wraps=merge._add)
    monkeypatch.setattr(merge, "_add", copied)
    store = merge_stores([parts[0], newer, parts[2]], tmp_path / "store")
    keys = [call.args[0].runs[call.args[1]]["key"] for call in copied.mock_calls]
    assert sorted(keys) == sorted((*KEYS[1::3], *KEYS[2::3]))
    assert [run["key"] for run in store.runs if run["task"]] == list(KEYS[1::3])


def test_damage_is_named_and_mended_parts_go_on(whole, parts, tmp_path, capsys):
    for file, key in {"shards/bold-00000.npy": KEYS[0], "stats/std.npy": KEYS[0]}.items():
        bad = shutil.copytree(parts[0].path, tmp_path / file.replace("/", "-"))
        data = bytearray((bad / file).read_bytes())
        data[128 + 50] ^= 1
        (bad / file).write_bytes(data)
        with pytest.raises(InputError, match=f"Run {key} of {bad} does not match its checksum"):
            merge_stores([parts[1], Store(bad)], tmp_path / "store")
        assert not (tmp_path / "store").exists()
    store = merge_stores(parts, tmp_path / "store")
    assert all_bytes(store.path) == all_bytes(whole.path)


def test_what_does_not_belong_together_is_refused(parts, tmp_path, capsys):
    mask = small_geometry().mask.copy()
    mask[3, 3] = False
    others = {
        "differ in geometry:": {"geometry": Geometry("toy", mask, (4, 4))},
        "differ in tr (1 and 2 s)": {"tr": 2.0},
        'preprocessing (kind: "pchip" and "cubic")': {"preprocessing": {"kind": "cubic"}},
    }
    cases = {}
    for i, (words, settings) in enumerate(others.items()):
        store = write_small_store(tmp_path / f"other-{i}", {"z": {}}, **settings)
        cases[words] = [store.path]
    cases[f"Run {KEYS[0]} is in both"] = [shutil.copytree(parts[0].path, tmp_path / "copy")]
    cases["no store at"] = [tmp_path / "nothing"]
    broken = shutil.copytree(parts[1].path, tmp_path / "broken")
    (broken / "skipped.jsonl").write_text("{")
    cases["skipped.jsonl is damaged"] = [broken]
    output = f"--output={tmp_path / 'out'}"
    for words, paths in cases.items():
        with pytest.raises(SystemExit) as stop:
            main([str(parts[0].path), *map(str, paths), output])
        error = capsys.readouterr().err.splitlines()
        assert stop.value.code == 1 and len(error) == 1
        assert error[0].startswith("error: ") and error[0].endswith(".") and words in error[0]
    for words, target in {"one of the parts": parts[1].path, "exists already": broken}.items():
        with pytest.raises(InputError, match=words):
            merge_stores(parts, target)
    assert not list(tmp_path.glob("out*"))


def test_runs_of_another_merge_do_not_slip_in(parts, tmp_path):
    with StoreWriter(
        tmp_path / "store",
        parts[0].geometry,
        tr=1.0,
        preprocessing=parts[0].preprocessing,
        provenance={},
    ) as writer:
        shape = (3, *parts[0].geometry.patch_mask.shape)
        writer.add("stranger", np.zeros(shape, np.float16))
    with pytest.raises(InputError, match="other runs, such as stranger"):
        merge_stores(parts, tmp_path / "store")
