"""Trees that hold a run several times, or another release: nothing is chosen without a word."""

import dataclasses

import pytest

from data_tools.convert.releases.bids import find_runs
from data_tools.convert.releases.side_by_side import choose_versions
from data_tools.errors import InputError
from data_tools.readers.surface_run import SurfaceHeader
from tests.data_tools.convert.test_convert import fails, smooth_run, write_pair
from tests.data_tools.readers.surface_files import N


def found(root, *names):
    for name in names:
        (root / name).touch()
    return find_runs([root])


def keys(runs):
    return [run.key for run in runs]


@pytest.mark.parametrize(
    "versions, words, flags",
    [
        (
            ("desc-denoised_bold", "desc-denoisedSmoothed_bold"),
            "desc (denoised, denoisedSmoothed): choose one, such as --desc=denoised.",
            {"desc": "denoised"},
        ),
        (("bold", "desc-smooth_bold"), "desc ((none), smooth): choose", {"desc": ""}),
        (
            ("res-1_desc-a_bold", "res-2_desc-b_bold"),
            "desc (a, b) and res (1, 2): choose one, such as --desc=b --res=2",
            {"res": "1"},
        ),
        (("den-32k_bold", "den-91k_bold"), "den (32k, 91k)", {"den": "91k"}),
    ],
)
def test_versions_of_a_run_are_named_and_chosen(tmp_path, versions, words, flags):
    names = [f"sub-1_task-x_space-fsLR_{version}.dtseries.nii" for version in versions]
    runs = found(tmp_path, *names, f"sub-2_task-x_space-fsLR_{versions[0]}.dtseries.nii")
    with pytest.raises(InputError) as caught:
        choose_versions(runs, {})
    assert f"Of 1 run there are several versions, which differ in {words}" in str(caught.value)
    kept, remarks = choose_versions(runs, flags)
    assert len({run.path for run in kept} & {tmp_path / name for name in names}) == 1
    assert remarks[0].startswith("Left out, as they are not of --")
    with pytest.raises(InputError, match="No run has --desc=other: choose one of"):
        choose_versions(runs, {"desc": "other"})


def test_one_number_written_in_two_ways_is_one_run(tmp_path, capsys):
    write_pair(tmp_path, smooth_run(n_frames=20), "sub-1_task-x_run-1", 1000.0)
    write_pair(tmp_path, smooth_run(n_frames=20), "sub-1_task-x_run-01", 1000.0)
    output = tmp_path / "out" / "store"
    output.parent.mkdir()
    for flags in ([], ["--dry-run"]):
        assert "2 runs have the name" in fails(capsys, output, f"--input={tmp_path}", *flags)


def test_other_versions_of_other_runs_are_said(tmp_path):
    runs = found(tmp_path, "sub-1_desc-a_bold.dtseries.nii", "sub-2_desc-b_bold.dtseries.nii")
    assert choose_versions(runs, {}) == (runs, ["NOTE: runs differ in desc: a, b. See --desc."])


def test_concatenations_are_left_out_and_counted(tmp_path):
    lengths = {
        "sub-A_task-rest_run-1_bold_timeseries": 18,
        "sub-A_task-rest_run-2_bold_timeseries": 20,
        "sub-A_task-rest_bold_desc-filtered_timeseries": 38,
        "sub-B_task-rest_run-1_bold": 20,
        "sub-B_task-rest_run-2_bold": 20,
        "sub-B_task-rest_bold": 36,  # outliers were taken out
        "sub-C_task-rest_dir-AP_run-1_bold": 20,
        "sub-C_task-rest_dir-PA_run-1_bold": 20,
        "sub-C_task-rest_bold": 40,
        "sub-D_task-rest_bold": 20,  # the first run
        "sub-D_task-rest_run-2_bold": 20,
        "sub-E_task-rest_bold": 20,  # a copy
        "sub-E_task-rest_run-01_bold": 20,
    }

    def header(path):
        return SurfaceHeader(lengths[path.name.removesuffix(".dtseries.nii")], N, N, 1.0)

    runs = found(tmp_path, *(f"{name}.dtseries.nii" for name in lengths))
    runs = [dataclasses.replace(run, read_header=header) for run in runs]
    kept, remarks = choose_versions(runs, {})
    assert remarks == ["Left out, as they are other runs of the tree joined: 3 runs."]
    assert keys(kept) == [
        *("sub-A_task-rest_run-1", "sub-A_task-rest_run-2", "sub-B_task-rest"),
        *("sub-B_task-rest_run-1", "sub-B_task-rest_run-2", "sub-C_task-rest_dir-AP_run-1"),
        *("sub-C_task-rest_dir-PA_run-1", "sub-D_task-rest", "sub-D_task-rest_run-2"),
        "sub-E_task-rest_run-01",
    ]
    (doubtful,) = (run for run in kept if run.fault)
    assert doubtful.key == "sub-B_task-rest" and "several runs joined" in doubtful.fault


@pytest.mark.parametrize(
    "tool, name",
    [
        ("hcp", "100307/MNINonLinear/Results/rfMRI_REST1_LR/rfMRI_REST1_LR_Atlas.dtseries.nii"),
        ("nsd", "subj01/32k_fs_LR/timeseries/timeseries_session01_run01.lh.func.gii"),
        ("ukbb", "1000001_32136_2_0.zip"),
    ],
)
def test_releases_have_converters_of_their_own(tmp_path, tool, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=f"release that data_tools.convert_{tool} converts"):
        find_runs([tmp_path])


def test_packed_and_freesurfer_names_are_runs(tmp_path):
    names = ("sub-1_task-x_bold.dtseries.nii.gz", "lh.rest.nii.gz", "rh.rest.nii.gz")
    assert keys(found(tmp_path, *names, "b.nii.gz")) == ["rest", "sub-1_task-x"]
