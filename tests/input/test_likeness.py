"""Evaluation sets and warm starts say in what the data are unlike those of the model."""

import shutil
from types import SimpleNamespace

import pytest

from data_tools.files.atomic import write_bytes
from data_tools.store.checksums import write_checksums
from fmrifm.input.data import open_data
from fmrifm.input.likeness import find_other_settings, find_unlike
from tests.conftest import write_toy_store


def test_an_evaluation_set_of_other_data_is_named(toy_config, stores, tmp_path, capsys):
    other = shutil.copytree(stores["eval"], tmp_path / "other")
    text = (other / "store.json").read_text()
    write_bytes(other / "store.json", text.replace('"tr": 1.0', '"tr": 2.0').encode())
    pixel = write_toy_store(tmp_path / "pixel", seed=5, subjects=1)
    text = (pixel / "store.json").read_text().replace('"vertex"', '"pixel"')
    write_bytes(pixel / "store.json", text.encode())
    for store in (other, pixel):
        write_checksums(store)
    open_data(toy_config(data__eval=f"same={stores['eval']},slow={other},pixel={pixel}"))
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2
    assert told[0].startswith("Eval set 'slow': ") and "has a TR of 2 s" in told[0]
    assert told[1].startswith("Eval set 'pixel': ") and "chain pixel, not vertex" in told[1]


@pytest.mark.parametrize("trained", [{}, {"tr": 1.0, "normalize": "frame", "stores": None}])
def test_what_a_model_does_not_tell_is_not_compared(trained):
    store = SimpleNamespace(path="store", tr=1.0, preprocessing={"chain": "pixel"})
    here = {"normalize": "frame", "no_coord_normalize": False}
    assert list(find_unlike([store], trained, "m")) == []
    assert list(find_other_settings(here, trained, "m")) == []


def test_other_normalisation_of_a_model_is_told():
    trained = {"normalize": "global", "no_coord_normalize": True, "tr": 0.8}
    here = {"normalize": "frame", "no_coord_normalize": False}
    told = list(find_other_settings(here, trained, "runs/a"))
    assert "data.normalize is frame and runs/a was trained with global" in told[0]
    assert "set data.no_coord_normalize=True" in told[1] and len(told) == 2
    store = SimpleNamespace(path="store", tr=1.0, preprocessing={})
    (told,) = find_unlike([store, store], trained, "runs/a")
    assert told.endswith("runs/a was trained at 0.8 s: convert the runs with --target-tr=0.8.")
