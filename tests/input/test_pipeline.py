"""Batches on hosts: resuming, threads, hosts and masks change nothing."""

import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict

from data_tools.errors import InputError
from fmrifm.input.clips import RandomSampler, list_clips, make_sampler
from fmrifm.input.pipeline import (
    ClipReader,
    EvalBatches,
    TrainBatches,
    host_batches,
    local_rows,
)
from fmrifm.input.sources import parse_sources, union_geometry
from fmrifm.trainer.mesh import batch_sharding, make_mesh

FRAMES, BATCH = 16, 8


def batches_of(text, rows=range(BATCH), steps=12):
    sources = parse_sources(text)
    reader = ClipReader(sources, union_geometry(sources), FRAMES)
    sampler = RandomSampler(sources, FRAMES, seed=5)
    return TrainBatches(reader, sampler, BATCH, np.array(rows), steps)


def same(a, b):
    return all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("threads, workers", [(1, 0), (4, 0), (2, 1)])
def test_order_depends_on_nothing_but_the_step(stores, threads, workers):
    flags.FLAGS.mark_as_parsed()
    source = batches_of(str(stores["train"]))
    expected = [source[step] for step in range(12)]
    iterator = host_batches(source, first_step=3, threads=threads, workers=workers)
    found = list(iterator)
    iterator.close()
    assert len(found) == 9 and all(map(same, found, expected[3:]))


def test_hosts_read_their_rows_of_one_batch(stores):
    whole = batches_of(str(stores["train"]))[7]
    for rows in ([0, 1, 2], [3, 4, 7], [5, 6]):  # those of a host need not lie together
        part = batches_of(str(stores["train"]), rows)[7]
        assert same(part, {name: values[rows] for name, values in whole.items()})


def test_rows_follow_from_the_sharding():
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    assert local_rows(batch_sharding(mesh), 8).tolist() == list(range(8))


def test_masks_of_several_stores_share_one_batch(stores):
    text = f"{stores['other']}@0.5,{stores['train']}@0.5"
    sources = parse_sources(text)
    geometry = union_geometry(sources)
    source = batches_of(text)
    clips, batch = source.clips(0), source[0]
    assert set(clips.source) == {0, 1}
    shape = (geometry.n_patches, geometry.patch_dim)
    for row, clip in enumerate(map(clips.__getitem__, range(BATCH))):
        store = sources[clip.source].store
        frames = store.geometry.to_frames(store.read(clip.run, clip.start, FRAMES))
        np.testing.assert_array_equal(geometry.to_frames(batch["bold"][row]), frames)
        bits = np.unpackbits(batch["valid"][row], count=shape[0] * shape[1]).astype(bool)
        np.testing.assert_array_equal(geometry.to_frames(bits.reshape(shape)), store.geometry.mask)


def test_evaluation_counts_every_clip_once(stores):
    sources = parse_sources(str(stores["train"]))
    reader = ClipReader(sources, union_geometry(sources), FRAMES)
    clips = list_clips(sources, FRAMES)
    source = EvalBatches(reader, sources, clips, BATCH, np.arange(BATCH))
    batches = [source[i] for i in range(len(source))]
    assert [int(b["counted"].sum()) for b in batches] == [8, 7]  # 15 clips
    words = np.concatenate([b["words"][b["counted"]] for b in batches])
    assert len(np.unique(words, axis=0)) == 15
    # The words name the clip, not its place: another batch size gives the same ones.
    other = EvalBatches(reader, sources, clips, 5, np.arange(5))
    again = np.concatenate([other[i]["words"] for i in range(3)])
    np.testing.assert_array_equal(words, again)


def test_unknown_sampling_is_named(stores):
    fields = {"num_frames": FRAMES, "stride": 0, "hrf_delay": 0.0, "window": 0}
    data = ConfigDict({"sampling": "shuffled", "clips_per_window": 1, **fields})
    with pytest.raises(InputError, match="'shuffled'"):
        make_sampler(parse_sources(str(stores["train"])), FRAMES, 0, data)
