"""From files to a table of embeddings, and the same from Python."""

import csv
import subprocess
import sys

import jax
import nibabel
import numpy as np
import pytest
from flax import linen as nn

import fmrifm
from data_tools.errors import InputError
from data_tools.simulate import __main__ as simulate
from data_tools.spaces.standard_maps import standard_flat_map
from fmrifm.embed.embeddings import make_table
from fmrifm.model.files import ModelFiles, load_model, save_model
from fmrifm.model.mae import MaskedAutoencoder, init_params
from fmrifm.model.options import ModelOptions
from fmrifm.probe.features import encode as features
from tests.conftest import ROOT, toy_geometry
from tests.data_tools.store.small_stores import write_small_store
from tests.probe.test_suite import write_model, write_task_store


def read_table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def vectors(rows, name):
    columns = [x for x in rows[0] if x.startswith(f"{name}_") and x[len(name) + 1 :].isdigit()]
    return np.array([[float(row[x]) for x in columns] for row in rows], np.float32)


@pytest.fixture(scope="module")
def flat_model(tmp_path_factory):
    """A model of the fsLR-32k flat map with fresh weights."""
    geometry = standard_flat_map("fsLR-32k").geometry
    options = ModelOptions(
        grid=geometry.grid, patch_shape=(16, 16), num_frames=16, t_patch=16, embed_dim=16, depth=1,
        num_heads=1, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=1,
    )  # fmt: skip
    params = nn.unbox(init_params(MaskedAutoencoder(options), jax.random.key(0)))
    path = tmp_path_factory.mktemp("model") / "model"
    save_model(path, ModelFiles(options, params, geometry, {"normalize": "none", "tr": 1.0}, []))
    return path


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """fMRIPrep's output of three people, a run each, at a TR of 0.8 s."""
    path = tmp_path_factory.mktemp("raw") / "tree"
    flags = (
        "--format=fmriprep --subjects=3 --runs=1 --rest-runs=0 --frames=100 --conditions=2 --tr=0.8"
    )
    simulate.main([f"--output={path}", *flags.split(), "--jobs=1"])
    return path


def test_from_fmriprep_to_a_table_and_the_same_from_an_array(flat_model, tree, tmp_path, capfd):
    output = tmp_path / "out"
    assert make_table(str(flat_model), [str(tree)], output, convert=["--jobs=1"]) == 3
    rows = read_table(output / "embeddings.csv")
    assert len({row["subject"] for row in rows}) == 3
    for row in rows:
        assert (row["task"], float(row["tr"]), float(row["source_tr"])) == ("block", 1.0, 0.8)
        assert int(row["n_windows"]) == 5 and int(row["unused_frames"]) == 0
        assert float(row["qc_fd_mean"]) > 0 and float(row["qc_temporal_snr"]) > 0
        assert row["sex"] in "FM" and 0 < int(float(row["age"]))
        assert not {"shard", "crc32", "confounds"} & row.keys()
    # Again: nothing is converted or encoded anew.
    capfd.readouterr()
    before = (output / "embeddings.csv").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "_encoded", lambda *_: pytest.fail("encoded"))
        make_table(str(flat_model), [str(tree)], output, convert=["--jobs=1"])
    assert "is there already" in capfd.readouterr().out
    assert (output / "embeddings.csv").read_bytes() == before
    # Of one run, from its array.
    model = fmrifm.from_pretrained(flat_model)
    (path,) = tree.rglob(f"*sub-{rows[1]['subject']}*.dtseries.nii")
    series = np.asarray(nibabel.load(path).dataobj)[:, :59412]  # the cortex comes first
    for name in ("cls", "patch"):
        found = getattr(model.embed(series, tr=0.8), f"{name}_RxD")
        np.testing.assert_allclose(found[0], vectors(rows, name)[1], atol=2e-3)
    with pytest.raises(InputError, match="does not tell its TR"):
        model.embed(series)


def test_of_a_store_with_tokens_on_the_command_line(tmp_path):
    model = write_model(tmp_path / "model")
    store = write_task_store(tmp_path / "store", (3, 4), 1.0)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "fmrifm.embed", f"--model={model}", f"--input={store}"),
            *(f"--output={tmp_path / 'out'}", "--tokens"),
        ],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"2 runs: {tmp_path / 'out' / 'embeddings.csv'}" in done.stdout
    rows = read_table(tmp_path / "out" / "embeddings.csv")
    assert [row["n_windows"] for row in rows] == ["12", "12"]
    assert [row["unused_frames"] for row in rows] == ["8", "8"]
    for row, patch in zip(rows, vectors(rows, "patch"), strict=True):
        with np.load(tmp_path / "out" / "tokens" / f"{row['key']}.npz") as file:
            assert file["tokens"].shape == (12, len(file["token_ids"]), 32)
            assert file["start"].tolist() == list(range(0, 192, 16))
            mean = file["tokens"][file["has_data"]].astype(np.float32).mean(0)
        np.testing.assert_allclose(mean, patch, atol=2e-3)
    embedded = fmrifm.from_pretrained(model).embed(store)
    np.testing.assert_allclose(embedded.patch_RxD, vectors(rows, "patch"), atol=1e-6)
    assert embedded.tokens is None and embedded.runs[0]["subject"] == "03"


def test_no_key_leads_tokens_out_of_the_output(flat_model, tmp_path):
    stores = [
        str(write_small_store(tmp_path / f"{i}", {key: {}}).path)
        for i, key in enumerate(("../../evil", "a/b", "ok", "ok"))
    ]
    for some, words in ((stores[:1], "cannot name"), (stores[1:2], "cannot"), (stores[2:], "two")):
        with pytest.raises(InputError, match=words):
            make_table(str(flat_model), some, tmp_path / "x/y/out", with_tokens=True)
    assert not (tmp_path / "x").exists()


def test_flat_maps_as_an_array(tmp_path):
    model = fmrifm.from_pretrained(write_model(tmp_path / "model"))
    geometry, rng = toy_geometry(), np.random.default_rng(0)
    series = (rng.normal(size=(40, *geometry.mask.shape)) * geometry.mask).astype(np.float16)
    embedded = model.embed(series.astype(np.float32), with_tokens=True)
    window = np.clip(series[None, None, 16:32].astype(np.float32), -3, 3)  # as the model's input is
    cls, _, patch = model.encode(window)
    np.testing.assert_allclose(embedded.tokens[0][1], patch[0], atol=4e-3)
    assert np.abs(embedded.cls_RxD[0] - cls[0, 0]).max() > 1e-3  # the mean of two windows
    assert embedded.runs[0]["unused_frames"] == 8
    with pytest.raises(InputError, match="is no run: give"):
        model.embed(series[:, 1:])
    with pytest.raises(InputError, match="TR of 2 s are no input"):
        model.embed(series, tr=2.0)


def test_what_is_unlike_the_training_data_is_said_and_what_is_restricted_is_not_shown(
    tmp_path, capsys
):
    path = write_model(tmp_path / "model")
    files = load_model(path)
    files.preprocessing["tr"] = 2.0
    save_model(path, files)
    geometry = toy_geometry()
    frames = np.zeros((20, geometry.n_patches, geometry.patch_dim), np.float16)
    frames[:] = np.random.default_rng(0).normal(size=frames.shape) * geometry.patch_mask
    runs = {"a": {"frames_TxNxP": frames, "subject": "01", "family": "f1", "qc": {"fd_mean": 0.1}}}
    store = write_small_store(tmp_path / "store", runs, geometry=geometry, restricted=["family"])
    make_table(str(path), [str(store.path)], tmp_path / "out")
    assert "has a TR of" in (told := capsys.readouterr().out) and "NOTE: " in told
    (row,) = read_table(tmp_path / "out" / "embeddings.csv")
    assert "family" not in row and row["qc_fd_mean"] == "0.1"
    with pytest.raises(InputError, match="does not exist|is no "):
        make_table(str(path), [str(tmp_path / "nowhere")], tmp_path / "other")
    assert not (tmp_path / "other").exists()
