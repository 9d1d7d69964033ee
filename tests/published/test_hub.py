"""Ids and names of models on the hub, and what is fetched of them, without a network."""

import json
import shutil
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import errors
from huggingface_hub.utils import filter_repo_objects

from data_tools.errors import InputError
from fmrifm.model.files import load_model, save_model
from fmrifm.published.hub import REGISTERED, HubId, parse_hub_id
from fmrifm.published.open_model import open_model
from fmrifm.published.weights import save_published
from tests.published.models import CHECKPOINT, assert_same_params, tiny_model


@pytest.mark.parametrize(
    "text, expected",
    [
        ("owner/name", HubId("owner/name")),
        ("owner/na.me-1:a/b.pth", HubId("owner/na.me-1", "a/b.pth")),
        ("owner/name@main", HubId("owner/name", "", "main")),
        ("owner/name:/a/@refs/pr/1", HubId("owner/name", "a", "refs/pr/1")),
        ("cortex_mae_flat", HubId("medarc/CortexMAE", REGISTERED["cortex_mae_flat"])),
        (
            "cortex_mae_flat_p8@v1",
            HubId("medarc/CortexMAE", REGISTERED["cortex_mae_flat_p8"], "v1"),
        ),
        *((text, None) for text in ("", "name", "./name", "../name", "/owner/name", "a/b/c")),
        ("owner/name:../secret.pth", None),
        ("runs/lost.pth", None),
    ],
)
def test_ids(text, expected):
    found = parse_hub_id(text)
    assert found == expected
    if expected and not text.startswith("cortex") and ":/" not in text:
        assert str(found) == text


def test_registered_names():
    assert len(REGISTERED) == 70
    last = "pretrain/checkpoint-last.pth"
    for name, folder in {
        "flat": "input_space_v3/flat_lr1e-3_1",
        "volume_r8": "input_space_v3/mni_cortex_lr1e-3_8",
        "parcel_r2": "input_space_v3/schaefer400_lr3e-4_2",
        "flat_d3": "model_scaling/d3",
        "flat_d15_r2": "model_scaling/d15_2",
        "flat_d12_r2": "input_space_v3/flat_lr1e-3_2",
        "flat_pt16": "t_patch_size/pt-16",
        "flat_p8": "patch_size/patch8",
        "flat_denoise": "decoders/attn_reg1_pep4",
        "flat_crossreg4": "decoders/crossreg_reg4",
        "flat_task_r2": "rest_v_task/task_ep50_2",
        "parcel_a424_r4": "subcortical/a424_lr3e-4_4",
        "parcel_s400ts3": "subcortical/schaefer400_tians3_lr3e-4_1",
        "parcel_s1000_r3": "schaefer1000/schaefer1000_lr3e-4_3",
    }.items():
        assert REGISTERED[f"cortex_mae_{name}"] == f"{folder}/{last}"
    best = "data_scaling/n1600_2/pretrain/checkpoint-best.pth"
    assert REGISTERED["cortex_mae_flat_n1600_r2"] == best


class Hub:
    """Repositories that are local directories, one per revision."""

    def __init__(self, root: Path, cache: Path):
        self.root, self.cache, self.fetched = root, cache, []

    def snapshot_download(self, repo_id, revision=None, allow_patterns=None):
        source = self.root / repo_id / (revision or "main")
        files = [str(p.relative_to(source)) for p in source.rglob("*") if p.is_file()]
        self.fetched = sorted(filter_repo_objects(files, allow_patterns=allow_patterns))
        top = self.cache / repo_id
        top.mkdir(parents=True, exist_ok=True)
        for name in self.fetched:
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, top / name)
        return str(top)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub", tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.chdir(tmp_path)
    return hub


def test_a_registered_name(hub):
    top = hub.root / "medarc" / "CortexMAE" / "main"
    for name in ("cortex_mae_flat", "cortex_mae_flat_r2"):
        (top / REGISTERED[name]).parent.mkdir(parents=True)
        shutil.copy(CHECKPOINT, top / REGISTERED[name])
    (top / "config.json").write_text("{}")
    (top / "LICENSE").write_text("the text")
    (top / "notes.txt").write_text("not needed")
    files = open_model("cortex_mae_flat")
    assert hub.fetched == ["LICENSE", REGISTERED["cortex_mae_flat"]]
    name = f"medarc/CortexMAE:{REGISTERED['cortex_mae_flat']}"
    assert files.sources == [{"name": name, "license": "cc-by-nc-4.0"}]
    # A bare LICENSE may be about the code: what is known of the weights goes first.
    assert files.license.startswith(f"The weights {name} are published by their authors under CC-")
    assert files.license.endswith("\nthe text")
    save_model("ours", files)  # and it travels
    assert load_model("ours").license == files.license
    assert load_model("ours").sources == files.sources


@pytest.mark.parametrize("place", ["", "a/b [1]"])
def test_a_directory_of_the_older_form(hub, place):
    model = tiny_model()
    top = hub.root / "owner" / "name" / "v1"
    save_published(top / place / "model.safetensors", model)
    config = json.loads((top / place / "config.json").read_text())
    del config["sources"], config["preprocessing"], config["subjects_seen"]
    (top / place / "config.json").write_text(json.dumps(config))
    (top / "README.md").write_text("---\nlicense: mit\n---\n")
    (top / "a").mkdir(exist_ok=True)
    (top / "a" / "optimizer.bin").write_text("large")
    path = f":{place}" if place else ""
    for text in (f"owner/name{path}@v1", f"owner/name:{place}/model.safetensors@v1"):
        files = open_model(text)
        assert_same_params(files.params, model.params)
        assert "README.md" in hub.fetched and len(hub.fetched) == 3


def test_our_own_form(hub):
    model = tiny_model(sources=[{"name": "older", "license": "mit"}], license="text")
    save_model(hub.root / "owner" / "name" / "main", model)
    for text in ("owner/name", "owner/name:model.safetensors"):
        files = open_model(text)
        assert_same_params(files.params, model.params)
        assert files.license == "text" and files.geometry.n_patches == model.geometry.n_patches
        assert files.sources == [*model.sources, {"name": text, "license": None}]


@pytest.mark.parametrize("save", [save_model, save_published])
@pytest.mark.parametrize("lost", [False, True])
def test_both_forms_published_again(hub, save, lost):
    """They descend from what they were and from where they lie now."""
    old = {"name": "older", "license": "mit"}
    top = hub.root / "owner" / "name" / "main"
    place = top / "sub" if save is save_model else top / "sub" / "model.safetensors"
    save(place, tiny_model(sources=[old], license="text"))
    (top / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    if lost:
        (top / "sub" / "LICENSE.txt").unlink()
    files = open_model("owner/name:sub")
    assert files.sources == [old, {"name": "owner/name:sub", "license": "cc-by-4.0"}]
    if lost:
        assert "weights older are published by their authors under MIT" in files.license
        assert "weights owner/name:sub are published by their authors under CC-BY" in files.license
    else:
        assert files.license == "text"


def test_a_mistyped_path_is_not_looked_up(hub):
    save_model(hub.root / "runs" / "b" / "main", tiny_model())
    Path("runs").mkdir()
    with pytest.raises(InputError, match=r"runs/b does not exist in runs/.*give runs/b@main"):
        open_model("runs/b")
    assert hub.fetched == []
    assert open_model("runs/b@main").sources[0]["name"] == "runs/b@main"


def test_a_path_wins_over_an_id(hub):
    save_model("owner/name", tiny_model())
    assert open_model("owner/name").sources == []
    assert hub.fetched == []


def test_a_file_that_is_not_there(hub):
    (hub.root / "owner" / "name" / "main").mkdir(parents=True)
    with pytest.raises(InputError, match="owner/name has no file a/b.pth"):
        open_model("owner/name:a/b.pth")
    with pytest.raises(InputError, match="owner/name has no file model.safetensors"):
        open_model("owner/name")


@pytest.mark.parametrize(
    "kind, words",
    [
        ("RepositoryNotFoundError", "neither a path here nor a model that you may read"),
        ("GatedRepoError", "https://huggingface.co/owner/name"),
        ("RevisionNotFoundError", "has no revision v1"),
        ("HfHubHTTPError", "does not give owner/name@v1: 500 Server Error"),
        ("LocalEntryNotFoundError", "cannot be reached"),
        ("OfflineModeIsEnabled", "cannot be reached"),
        ("HFValidationError", "nor an id"),
    ],
)
def test_what_the_hub_refuses(hub, monkeypatch, kind, words):
    error = getattr(errors, kind)

    def refuse(*_, **__):
        made = error.__new__(error)
        Exception.__init__(made, "500 Server Error")
        raise made

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match=words):
        open_model("owner/name@v1")


def test_errors_of_the_client(hub, monkeypatch):
    gone = type("ProxyError", (Exception,), {"__module__": "httpx"})
    for error, expected in ((gone("no"), InputError), (ZeroDivisionError(), ZeroDivisionError)):

        def refuse(*_, error=error, **__):
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
        with pytest.raises(expected):
            open_model("owner/name")


def test_without_the_client(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"owner/name is not a path here.*'fmrifm\[hub\]'"):
        open_model("owner/name")


def test_what_is_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="did you mean cortex_mae_flat_r3"):
        open_model("cortex_mae_flatr3")
    for text in ("nothing", "a/b/c", "."):
        with pytest.raises(InputError, match="is no model: give a model directory, a pretrain"):
            open_model(text)
