"""UK Biobank: archives read in place, bad ones refused, missing vertices, conversion."""

import json
import pickle
import zipfile

import numpy as np
import pytest
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, SeriesAxis

from data_tools.convert.releases.ukbb import find_ukbb_runs, read_member
from data_tools.convert_ukbb import main
from data_tools.errors import InputError
from data_tools.spaces.standard_maps import standard_cortex
from data_tools.store.reader import Store

REST, TASK = (f"surf_fMRI/CIFTIs/bb.{m}.MNI.MSMAll.dtseries.nii" for m in ("rfMRI", "tfMRI"))


def cifti_bytes(n_frames=24, lost=0, tr=0.735, seed=0):
    """A dense time series of fsLR-32k; the first `lost` vertices of the left cortex are 0."""
    axes = [
        BrainModelAxis.from_mask(mask, f"CIFTI_STRUCTURE_CORTEX_{side}")
        for mask, side in zip(standard_cortex("fsLR-32k"), ("LEFT", "RIGHT"), strict=True)
    ]
    axis = axes[0] + axes[1]
    data = np.random.default_rng(seed).normal(size=(n_frames, len(axis))).astype(np.float32)
    data[:, :lost] = 0
    image = Cifti2Image(data, (SeriesAxis(0, tr, n_frames), axis))
    image.nifti_header.set_intent("ConnDenseSeries")
    return image.to_bytes()


def write_zip(path, members, method=zipfile.ZIP_DEFLATED, level=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method, compresslevel=level) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.fixture(scope="module")
def rest():
    return cifti_bytes()


def test_archives_and_their_names(tmp_path, rest):
    write_zip(tmp_path / "10" / "1000001_32136_2_0.zip", {REST: rest, TASK: rest})
    write_zip(tmp_path / "10" / "1000001_32136_3_0.zip", {f"top/{REST}": rest, "notes.txt": "x"})
    write_zip(tmp_path / "11" / "1000002_20227_2_0.zip", {REST: b""})
    runs, remarks = find_ukbb_runs(tmp_path)
    assert [run.key for run in runs] == [
        "sub-1000001_ses-2_mod-rfMRI",
        "sub-1000001_ses-2_mod-tfMRI",
        "sub-1000001_ses-3_mod-rfMRI",
    ]
    fields = {"subject": "1000001", "session": 2, "mod": "tfMRI", "task": "emotion"}
    assert runs[1].fields == fields and runs[1].sidecar_tr == 0.735
    assert remarks == ["Sessions without tfMRI: 1."]
    for run in pickle.loads(pickle.dumps(runs)):
        assert run.read_header(run.path).n_frames == 24 and run.read(run.path).tr == 0.735
    assert [run.fields["session"] for run in find_ukbb_runs(tmp_path, modalities=["tfMRI"])[0]] == [
        2
    ]
    for options in ({"subjects": "2*"}, {"modalities": ["tfMRI"], "subjects": "1000002"}):
        with pytest.raises(InputError, match="expected PARTICIPANT_32136_INSTANCE_0.zip"):
            find_ukbb_runs(tmp_path, **options)


def test_a_header_is_read_without_its_data(tmp_path, rest, monkeypatch):
    path = write_zip(tmp_path / "1_32136_2_0.zip", {REST: rest})
    (run,), _ = find_ukbb_runs(tmp_path, modalities=["rfMRI"])
    read = []
    whole = zipfile.ZipExtFile.read
    monkeypatch.setattr(
        zipfile.ZipExtFile, "read", lambda self, n=-1: read.append(whole(self, n)) or read[-1]
    )
    header = run.read_header(path)
    assert (header.n_frames, header.left, header.right) == (24, 32492, 32492)
    assert sum(map(len, read)) < len(rest) / 4


def test_bad_archives_are_refused_in_one_sentence(tmp_path, rest):
    path = tmp_path / "1_32136_2_0.zip"
    packed = write_zip(path, {REST: rest}).read_bytes()

    def fails(words, data=None):
        if data is not None:
            path.write_bytes(data)
        (run,), _ = find_ukbb_runs(tmp_path, modalities=["rfMRI"])
        for read in (run.read, run.read_header):
            with pytest.raises(InputError) as error:
                read(path)
            assert words in str(error.value) and "\n" not in str(error.value), error.value

    fails("damaged or incomplete", packed[: len(packed) // 2])
    fails("damaged or incomplete", b"")
    # The data are cut, and the directory after them is whole.
    middle = packed.index(b"PK\1\2")
    hollow = packed[:500] + bytes(middle - 500) + packed[middle:]
    fails("damaged or incomplete", hollow)
    for name in ("/etc/passwd", "../../up", "a/../../up", "C:\\up", "..\\up"):
        write_zip(path, {REST: rest, name: b"x"})
        fails("which leads out of it")
    write_zip(path, {REST: bytes(2**24)}, level=9)
    fails("which no run has")
    write_zip(path, {"surf_fMRI/readme.txt": b"x"})
    fails(f"holds no file {REST}")
    write_zip(path, {REST: b"no image" * 100}, zipfile.ZIP_STORED)
    fails("damaged or incomplete")
    write_zip(path, {REST: rest}, zipfile.ZIP_BZIP2)
    fails("by other means than deflate")
    flags = bytearray(packed)
    flags[middle + 8] |= 1
    fails("is encrypted", bytes(flags))


def test_no_more_is_unpacked_than_declared(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"x": np.random.default_rng(0).bytes(10**6)})
    data = bytearray(path.read_bytes())
    middle = data.index(b"PK\1\2")
    data[middle + 24 : middle + 28] = (1000).to_bytes(4, "little")
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="damaged or incomplete"):
        read_member(path, "x")


def test_missing_vertices_stay_missing_and_bad_runs_are_told(tmp_path, capsys):
    write_zip(tmp_path / "in" / "1000001_32136_2_0.zip", {REST: cifti_bytes(lost=250)})
    write_zip(tmp_path / "in" / "1000002_32136_2_0.zip", {REST: cifti_bytes(lost=3000)})
    write_zip(tmp_path / "in" / "1000003_32136_2_0.zip", {REST: cifti_bytes(tr=0.8)})
    (tmp_path / "in" / "1000004_32136_2_0.zip").write_bytes(b"PK")
    for folder in "ab":
        write_zip(tmp_path / "in" / folder / "1000005_32136_2_0.zip", {REST: cifti_bytes()})
    store = tmp_path / "store"
    main([f"--input={tmp_path / 'in'}", f"--output={store}", "--modality=rfMRI", "--jobs=1"])
    assert "Runs skipped: 5" in capsys.readouterr().out
    (run,) = Store(store).runs
    assert (run["key"], run["source_tr"]) == ("sub-1000001_ses-2_mod-rfMRI", 0.735)
    assert 0 < run["qc"]["missing_share"] < 0.01 and run["missing"]
    frames = np.asarray(Store(store).read(0, 0, 16), np.float32)
    assert not frames.reshape(len(frames), -1)[:, run["missing"]].any()
    skipped = [json.loads(line) for line in (store / "skipped.jsonl").read_text().splitlines()]
    reasons = [line["reason"] for line in skipped]
    for words, reason in zip(
        ("where 1.0% is allowed", "0.8 s", "damaged", "2 runs have", "2 runs have"),
        reasons,
        strict=True,
    ):
        assert words in reason
