"""From surface runs to a store: formats, recipes, bad runs."""

import json

import numpy as np
import pytest

from data_tools.convert import conversion
from data_tools.convert.__main__ import main
from data_tools.convert.releases.bids import find_runs, in_space, run_key
from data_tools.convert.releases.bids_files import read_events
from data_tools.errors import InputError
from data_tools.readers.surfaces import SurfaceRun, read_flat_surface
from data_tools.spaces.standard_maps import fsaverage5_surfaces, read_flat_map, standard_flat_map
from data_tools.store.reader import Store
from data_tools.timeseries.process_run import process_run
from data_tools.timeseries.recipe import Recipe
from tests.data_tools.readers.surface_files import N, write_cifti, write_gifti, write_mgz

KEY = "sub-01_ses-02_task-rest_run-1"
STEM = f"{KEY}_space-fsaverage5"


def smooth_run(seed=0, n_frames=40, mean=1000.0):
    """(T, X) smooth series of both hemispheres, in scanner units."""
    rng = np.random.default_rng(seed)
    time = np.arange(n_frames)[:, None]
    sides = []
    for path in fsaverage5_surfaces():
        points = read_flat_surface(path)[0][:, :2] / 40
        angles = points @ rng.normal(size=(2, 4))
        waves = [np.sin(angles[:, i] + time / rng.uniform(2, 6)) for i in range(4)]
        noise = rng.normal(size=(n_frames, N))
        sides.append((mean + 10 * sum(waves) + noise).astype(np.float32))
    return sides


def write_pair(folder, sides, stem=STEM, tr_ms=1400.0):
    for side, data in zip("LR", sides, strict=True):
        write_gifti(folder / f"{stem}_hemi-{side}_bold.func.gii", data, tr_ms)


def convert(*args):
    """Runs the command in this process, one job."""
    main(["--jobs=1", *map(str, args)])


def fails(capsys, output, *args):
    """Runs a command that must fail with one sentence and leave nothing; returns the sentence."""
    before = sorted(output.parent.iterdir())
    with pytest.raises(SystemExit) as caught:
        convert(*args, f"--output={output}")
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert caught.value.code == 1 and error.startswith("error: ") and error.endswith(".")
    assert sorted(output.parent.iterdir()) == before
    return error


def test_every_format_gives_the_same_store(tmp_path):
    left, right = smooth_run()
    for folder in ("gifti", "mgz", "cifti"):
        (tmp_path / folder).mkdir()
    write_pair(tmp_path / "gifti", (left, right))
    write_mgz(tmp_path / "mgz" / f"{STEM}.lh.mgz", left, 1400.0)
    write_mgz(tmp_path / "mgz" / f"{STEM}.rh.mgz", right, 1400.0)
    write_cifti(
        tmp_path / "cifti" / f"{STEM}_bold.dtseries.nii",
        left,
        right,
        1.4,
        below=np.ones((len(left), 5)),
    )
    frames = []
    for folder in ("gifti", "mgz", "cifti"):
        convert(f"--input={tmp_path / folder}", f"--output={tmp_path / folder}.store")
        store = Store(tmp_path / f"{folder}.store")
        run = store.runs[0]
        # 40 frames of 1.4 s: the last begins at 54.6 s.
        assert (run["key"], run["n_frames"]) == (KEY, 55)
        assert (run["subject"], run["session"], run["task"], run["run"]) == (
            "01",
            "02",
            "rest",
            "1",
        )
        assert (store.tr, run["source_tr"], run["qc"]["missing_share"]) == (1.0, 1.4, 0)
        assert all(intact for _, intact in store.verify())
        frames.append(store.read(0, 0, 55))
    np.testing.assert_array_equal(frames[0], frames[1])
    np.testing.assert_array_equal(frames[0], frames[2])
    # z-scores on the cortex, 0 off it.
    inside = frames[0][:, store.geometry.patch_mask].astype(np.float32)
    assert abs(inside.mean()) < 0.05 and 0.8 < inside.std() < 1.1
    assert not frames[0][:, ~store.geometry.patch_mask].any()


def test_jobs_order_and_resuming_change_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "in").mkdir()
    for subject in ("01", "02", "03"):
        write_pair(
            tmp_path / "in", smooth_run(int(subject), 24), f"sub-{subject}_task-rest", 1000.0
        )
    inputs = [str(tmp_path / "in" / f"sub-0{i}_task-rest_hemi-R_bold.func.gii") for i in (3, 1, 2)]
    convert("--input", tmp_path / "in", f"--output={tmp_path / 'one'}")
    main([f"--input={inputs[0]}", *inputs[1:], f"--output={tmp_path / 'two'}", "--jobs=2"])
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(conversion, "finish_store", _interrupt)
        convert(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'three'}")
    assert stopped.value.code == 130 and capsys.readouterr().err.endswith("Interrupted.\n")
    assert not (tmp_path / "three").exists()
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "process_run", _interrupt)  # nothing may be done twice
        with pytest.raises(SystemExit):
            convert("--input", inputs[0], f"--output={tmp_path / 'three'}")
        # Nor may runs that nobody asks for slip in.
        assert "begun with other runs, such as sub-01_task-rest:" in capsys.readouterr().err
        convert(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'three'}")
    one, *others = (Store(tmp_path / name) for name in ("one", "two", "three"))
    shard = one.meta["shards"][0]["file"]
    for other in others:
        assert one.runs == other.runs
        assert (one.path / shard).read_bytes() == (other.path / shard).read_bytes()
    assert one.meta["provenance"]["input"] == ["in"]  # no path that other machines do not have

    # A job that was killed when the store was published is done; what it left is cleared away.
    (tmp_path / "one.partial" / "parts").mkdir(parents=True)
    command = ["--input", tmp_path / "in", f"--output={tmp_path / 'one'}"]
    capsys.readouterr()
    convert(*command)
    told = capsys.readouterr().out
    assert "one is there already, made from these runs with these settings" in told
    assert "runs: 3" in told and not (tmp_path / "one.partial").exists()
    assert "exists already" in fails(capsys, tmp_path / "one", *command[:2], "--target-tr=2")
    assert "exists already" in fails(capsys, tmp_path / "one", "--input", inputs[0])
    (tmp_path / "in" / "sub-01_task-rest_hemi-R_bold.func.gii").touch()
    assert "exists already" in fails(capsys, tmp_path / "one", *command[:2])


def _interrupt(*_args):
    raise KeyboardInterrupt


def test_pixel_chain_keeps_the_scale(tmp_path):
    left, right = smooth_run(mean=1000.0)
    write_pair(tmp_path, (left, right))
    output = tmp_path / "store"
    convert(f"--input={tmp_path}", f"--output={output}", "--chain=pixel", "--target-tr=0")
    store = Store(output)
    assert store.tr == 1.4 and store.runs[0]["n_frames"] == 40
    mean, std = store.scale(0)
    restored = store.read(0, 0, 40) * std + mean
    flat_map = standard_flat_map("fsaverage5")
    pixels = flat_map.sample(np.concatenate([left, right], 1))
    expected = flat_map.geometry.pixels_to_patches(pixels)
    np.testing.assert_allclose(restored, expected, atol=0.05, rtol=1e-4)
    assert 50 < store.runs[0]["qc"]["temporal_snr"] < 500


def test_missing_vertices():
    left, right = smooth_run(mean=0.0)
    left[:, 3000:3400] = 7.0
    flat_map, run = standard_flat_map("fsaverage5"), SurfaceRun(left, right, 1.0)
    frames = process_run(run, flat_map, Recipe())
    lost = np.isin(flat_map.nearest, np.arange(3000, 3400))
    expected = np.flatnonzero(flat_map.geometry.pixels_to_patches(lost))
    np.testing.assert_array_equal(frames.missing, expected)
    assert frames.qc["missing_share"] == pytest.approx(lost.mean(), abs=1e-6)
    assert frames.qc["temporal_snr"] is None
    assert not frames.frames.reshape(40, -1)[:, frames.missing].any()
    ignored = process_run(run, flat_map, Recipe(missing="ignore"))
    assert ignored.missing is None
    # What is not missing is the same either way.
    kept = np.setdiff1d(np.arange(frames.frames[0].size), frames.missing)
    np.testing.assert_array_equal(
        frames.frames.reshape(40, -1)[:, kept], ignored.frames.reshape(40, -1)[:, kept]
    )
    with pytest.raises(InputError, match="no data in .*% of its pixels, where 1.0% is allowed"):
        process_run(run, flat_map, Recipe(max_missing=0.01))
    with pytest.raises(InputError, match="no data in 4.*, where 25.0% is allowed"):
        process_run(SurfaceRun(left * 0, right, 1.0), flat_map, Recipe())
    # NaN in every frame says so, too.
    left[:, 3000:3400] = np.nan
    again = process_run(SurfaceRun(left, right, 1.0), flat_map, Recipe())
    np.testing.assert_array_equal(again.missing, frames.missing)
    np.testing.assert_array_equal(again.frames, frames.frames)
    left[:, 3000:3400] = 7.0
    # NaN where the map has no vertex is nobody's loss.
    run.left[:, ~flat_map.kept[:N]] = np.nan
    again = process_run(run, flat_map, Recipe())
    np.testing.assert_array_equal(again.frames, frames.frames)


def test_part_of_a_run_is_cut_before_zscoring(tmp_path):
    left, right = smooth_run(n_frames=60)
    (tmp_path / "in").mkdir()
    write_pair(tmp_path / "in", (left, right), tr_ms=1000.0)
    (tmp_path / "in" / f"{KEY}_events.tsv").write_text(
        "onset\tduration\ttrial_type\n2.5\t1\tearly\n31\tn/a\tlate\n40\t2\tn/a\n"
    )
    write_pair(tmp_path, (left[30:], right[30:]), "cut", tr_ms=1000.0)
    convert(f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'a'}", "--seconds=30:")
    convert("--input", tmp_path / "cut_hemi-L_bold.func.gii", f"--output={tmp_path / 'b'}")
    a, b = Store(tmp_path / "a"), Store(tmp_path / "b")
    np.testing.assert_array_equal(a.read(0, 0, 30), b.read(0, 0, 30))
    assert a.runs[0]["events"] == [
        {"onset": 1, "duration": None, "trial_type": "late"},
        {"onset": 10, "duration": 2, "trial_type": None},
    ]
    assert a.preprocessing["seconds"] == [30, None] and b.preprocessing["seconds"] is None


def test_bad_runs_are_skipped_with_a_reason(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    left, right = smooth_run(n_frames=20)
    write_pair(folder, (left, right), "sub-01_task-rest", 1000.0)
    write_pair(folder, (left * 0, right * 0), "sub-02_task-rest", 1000.0)
    write_gifti(folder / "sub-03_task-rest_hemi-R_bold.func.gii", right, 1000.0)
    write_pair(folder, (left[:9], right[:9]), "sub-04_task-rest", 1000.0)
    reasons = ("constant in time everywhere", "put sub-03_task-rest_hemi-L", "has 9 frames")
    reasons += ("cannot name a file",)
    output = tmp_path / "store"
    assert reasons[0] in fails(capsys, output, f"--input={folder}", "--strict")
    write_pair(folder, (left, right), "sub-05\\\n", 1000.0)
    convert(f"--input={folder}", f"--output={output}", "--dry-run")
    assert "Runs that cannot be converted: 3" in capsys.readouterr().out
    convert(f"--input={folder}", f"--output={output}")
    assert [run["key"] for run in Store(output).runs] == ["sub-01_task-rest"]
    skipped = (output / "skipped.jsonl").read_text().splitlines()
    skipped = [json.loads(line) for line in skipped]
    assert [line["key"][:6] for line in skipped] == ["sub-02", "sub-03", "sub-04", "sub-05"]
    for line, reason in zip(skipped, reasons, strict=True):
        assert reason in line["reason"] and str(folder) not in line["reason"] + line["path"]
    # A clean conversion leaves no old list standing.
    convert(f"--input={folder}/sub-01*L*.gii", f"--output={output}", "--overwrite")
    assert not (output / "skipped.jsonl").exists()


def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, capsys):
    output = tmp_path / "out" / "store"
    output.parent.mkdir()
    left, right = smooth_run(n_frames=20)
    write_pair(tmp_path, (left, right), "a", 0.0)
    source = f"--input={tmp_path / 'a_hemi-L_bold.func.gii'}"
    for words, *args in (
        ("does not exist", f"--input={tmp_path / 'none'}"),
        ("no surface run in", f"--input={output.parent}"),
        ("does not say its TR", source),
        ("where 0.05 to 20 s is possible", source, "--tr=1400"),
        ("nothing in the seconds to keep", source, "--tr=1", "--seconds=500:"),
        ("seconds to keep are empty", source, "--tr=1", "--seconds=9:2"),
        ("a clip needs 16", source, "--tr=0.5"),
        ("--max-missing=2 is no share", source, "--tr=1", "--max-missing=2"),
        ("do not divide", source, "--tr=1", "--patch-size=15"),
        ("number of processes", source, "--tr=1", "--jobs=0"),
    ):
        assert words in fails(capsys, output, *args)
    left[4, 5000] = np.nan
    write_pair(tmp_path, (left, right), "a", 1000.0)
    assert "NaN or infinite values at 1 vertices" in fails(capsys, output, source)
    write_pair(tmp_path, (right[:, :2562], right[:, :2562]), "a", 1000.0)
    assert "flat surfaces of fsaverage4 with --surfaces" in fails(capsys, output, source)
    write_cifti(tmp_path / "c.dtseries.nii", right, None)
    assert "no right cortex" in fails(capsys, output, f"--input={tmp_path / 'c.dtseries.nii'}")
    assert "unrecognized" not in capsys.readouterr().err


def test_other_surfaces_and_region(tmp_path):
    left, right = smooth_run(n_frames=20)
    write_pair(tmp_path, (left, right), "a", 1000.0)
    roi = (np.arange(N) < 8000).astype(np.float32)[None]
    write_mgz(tmp_path / "lh.roi.mgz", roi)
    surfaces = [f"--surfaces={fsaverage5_surfaces()[0]}", fsaverage5_surfaces()[1]]
    source = f"--input={tmp_path / 'a_hemi-L_bold.func.gii'}"
    convert(source, *surfaces, f"--output={tmp_path / 'all'}", "--patch-size=8")
    convert(source, f"--output={tmp_path / 'part'}", "--roi", *[tmp_path / "lh.roi.mgz"] * 2)
    whole, part = Store(tmp_path / "all").geometry, Store(tmp_path / "part").geometry
    np.testing.assert_array_equal(whole.mask, read_flat_map(fsaverage5_surfaces()).geometry.mask)
    assert whole.patch_shape == (8, 8) and whole.space == "flat-fsaverage5"
    assert part.n_pixels < whole.n_pixels and not (part.mask & ~whole.mask).any()


def test_names_and_events(tmp_path):
    assert run_key("sub-1_task-x_dir-AP_hemi-L_space-fsaverage5_desc-p_bold.func.gii") == (
        "sub-1_task-x_dir-AP"
    )
    assert run_key("timeseries_session01_run02.lh.func.gii") == "timeseries_session01_run02"
    assert run_key("lh.rest.mgz") == "rest"
    names = ("fsaverage5_hemi-L_bold.func.gii", "fsLR_den-91k_bold.dtseries.nii")
    for name in (*names, "fsaverage5_hemi-R_bold.func.gii", "T1w_hemi-L_white.surf.gii"):
        (tmp_path / f"sub-1_task-x_run-1_space-{name}").touch()
    for name in ("task-x", "sub-1_task-x_run-1", "sub-2_task-x", "sub-1_task-y_run-1"):
        events = "onset\tduration\tid\n1\t2.5\t007\n" if "run" in name else "onset\n"
        (tmp_path / f"{name}_events.tsv").write_text(events)
    for space, name in zip(("fsaverage5", "fsLR-32k"), names, strict=True):
        (run,) = in_space(find_runs([tmp_path]), space)
        assert run.path.name.endswith(name)
        events = tmp_path / "sub-1_task-x_run-1_events.tsv"
        assert run.read_events() == [{"onset": 1, "duration": 2.5, "id": "007"}]
        assert run.fields == {"subject": "1", "task": "x", "run": "1"}
    assert len(find_runs([tmp_path])) == 2
    head = "onset\tduration\ttrial_type\n"
    for bad, words in {
        f"{head}2,5\t1\ta\n": "Line 2 of .* '2,5' as its onset",
        f"{head}1\t1_0\ta\n": "'1_0' as its duration",
        f"{head}1\t2\n": "Line 2 of .* 2 columns and its header 3",
        "when\tduration\n1\t1\n": "no column 'onset': it has when, duration",
        "onset\n1\n": "no column 'duration'",
    }.items():
        events.write_text(bad)
        with pytest.raises(InputError, match=words):
            read_events(events)
    # Texts stay texts: a quotation mark is one, and so is what only Python takes for a number.
    labels = ('"', "hello", '"', "1_1", "11", "1e2", "100", "0050003", "\u0663")
    rows = (f"{2 * i}\tn/a\t{label}\n" for i, label in enumerate(labels))
    events.write_text(f"{head}{''.join(rows)}n/a\t1\tb\n1e-1\t1\tc\n")
    found = read_events(events)
    assert [event["trial_type"] for event in found] == [*labels, "b", "c"]
    assert [event["onset"] for event in found[-3:]] == [16, None, 0.1]
    assert found[0]["duration"] is None and found[-1]["duration"] == 1
