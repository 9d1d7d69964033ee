"""Files that git-annex or Git LFS has not fetched are named as such, whatever they should hold."""

from pathlib import Path

import pytest

from data_tools.convert.pseudonyms import read_salt
from data_tools.convert.releases.hcp import find_hcp_runs, read_evs
from data_tools.convert.releases.ukbb import find_ukbb_runs
from data_tools.errors import InputError
from data_tools.files.remote import open_binary
from data_tools.published.arrow_rows import read_join
from data_tools.published.published_split import find_split_file
from data_tools.readers.parcellation import read_parcellation
from data_tools.readers.surfaces import read_flat_surface, read_surface_run
from data_tools.readers.volume_run import read_volume_header
from data_tools.spaces.geometry import load_geometry
from data_tools.store.reader import Store
from fmrifm.probe.samples.labels import parse_target
from tests.data_tools.store.small_stores import write_small_store

POINTER = "/annex/objects/MD5E-s6938--aa604e6677a573a11b5c5b26cce231d0.gz\n"
READERS = {
    "a_bold.dtseries.nii": read_surface_run,
    "a.lh.mgz": read_surface_run,
    "a_hemi-L.func.gii": read_surface_run,
    "a.surf.gii": read_flat_surface,
    "a_bold.nii.gz": read_volume_header,
    "a.dlabel.nii": lambda path: read_parcellation([path]),
    "geometry.npz": load_geometry,
    "salt": read_salt,
    "split.json": find_split_file,
    "join.json": lambda path: read_join(f"dx={path}"),
    "rows.npy": lambda path: parse_target(f"array:{path}:nsd_id"),
    "map.json": lambda path: parse_target(f"run:sex;{path}"),
    "shard.tar": lambda path: open_binary(path).__enter__(),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["pointer", "link"])
def test_each_reader_says_so(tmp_path, name, kind):
    path: Path = tmp_path / name
    if kind == "pointer":
        path.write_text(POINTER)
    else:
        path.symlink_to(tmp_path / "nowhere")
    for other in ("a.rh.mgz", "a_hemi-R.func.gii"):
        (tmp_path / other).symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="git-annex.*not fetched|is a link to nothing"):
        READERS[name](path)


def test_stores_say_so_of_their_parts(tmp_path):
    path = write_small_store(tmp_path / "store", {"a": {}}).path
    for name in ("stats/mean.npy", "shards/bold-00000.npy", "runs.jsonl", "store.json"):
        (path / name).unlink()
        (path / name).symlink_to(tmp_path / "nowhere")
        with pytest.raises(InputError, match=f"{name} does not exist, since it is a link"):
            Store(path)


def test_releases_list_runs_that_were_not_fetched(tmp_path):
    folder = tmp_path / "100307" / "MNINonLinear" / "Results" / "tfMRI_WM_LR"
    (folder / "EVs").mkdir(parents=True)
    (folder / "tfMRI_WM_LR_Atlas_MSMAll.dtseries.nii").symlink_to("nowhere")
    (folder / "EVs" / "cue.txt").symlink_to("nowhere")
    ((run,), _) = find_hcp_runs(tmp_path)
    for read in (lambda: run.read_header(run.path), lambda: read_evs(folder / "EVs")):
        with pytest.raises(InputError, match="is a link to nothing"):
            read()
    (tmp_path / "1000001_32136_2_0.zip").symlink_to("nowhere")
    runs, _ = find_ukbb_runs(tmp_path)
    with pytest.raises(InputError, match="is a link to nothing"):
        runs[0].read_header(runs[0].path)
