"""What `python -m data_tools.inspect` says about a store, good and bad."""

import html.parser
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage

from data_tools.errors import InputError
from data_tools.inspect import report
from data_tools.inspect.__main__ import main, summary
from data_tools.inspect.outliers import choose_runs, odd_runs
from data_tools.inspect.pictures import write_picture
from data_tools.inspect.report import write_report
from data_tools.spaces.geometry import Geometry
from data_tools.store.reader import Store
from data_tools.store.writer import StoreWriter
from tests.data_tools.store.small_stores import write_small_store

ROOT = Path(__file__).parents[3]


def make_store(path: Path, mask: np.ndarray, patch_shape: tuple[int, int], lengths) -> Store:
    geometry = Geometry("toy", mask, patch_shape)
    rng = np.random.default_rng(0)
    with StoreWriter(
        path, geometry, tr=2.0, preprocessing={"chain": ["zscore"]}, provenance={"source": "test"}
    ) as writer:
        for i, length in enumerate(lengths):
            frames = rng.standard_normal((length, *geometry.patch_mask.shape), np.float32)
            writer.add(
                f"sub-{i // 2}_run-{i % 2}",
                frames * geometry.patch_mask,
                missing=[np.flatnonzero(geometry.patch_mask)[0]] if i else None,
                dataset="toyset",
                subject=str(i // 2),
                task=("rest", "faces")[i % 2],
                events=[{"onset": 1.0, "duration": 2.0, "trial_type": "house"}] * (i % 2),
            )
        return writer.finish()


@pytest.fixture
def store(tmp_path) -> Store:
    mask = np.ones((8, 12), bool)
    mask[:5, :5] = False
    return make_store(tmp_path / "store", mask, (4, 4), [30, 60, 30])


def test_command(store, tmp_path):
    """Through the shell, once: text, picture and verification of a good store, then a bad one."""
    picture = tmp_path / "picture.png"
    command = [sys.executable, "-m", "data_tools.inspect", str(store.path), "--verify"]
    good = subprocess.run([*command, f"--png={picture}"], cwd=ROOT, capture_output=True, text=True)
    assert good.returncode == 0, good.stderr
    for words in (
        "fmrifm-store version 1, float16, 1 shard",
        "5 cortical of 6 (2 x 3 grid)",
        "3 runs of 30 to 60 (median 30) frames; 120 frames, 4.0 minutes",
        "pixels in 2 runs, at most 1",
        "toyset   faces         1     1      60      2.0",
        "toyset   rest          2     2      60      2.0",
        "house                    1     1",
        "zscore",
        "All checksums of 3 runs match.",
    ):
        assert words in good.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")

    shard = store.path / "shards" / "bold-00000.npy"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    bad = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert bad.returncode == 1
    last = bad.stderr.strip().splitlines()[-1]
    assert last.startswith("error: 1 of 3 runs of") and "(sub-1_run-0)" in last


def test_bad_input_is_one_sentence(store, tmp_path, capsys):
    for arguments in (
        [str(tmp_path / "nothing")],
        [str(tmp_path)],
        [str(store.path), f"--png={tmp_path}/picture.jpg"],
        [str(store.path), f"--png={tmp_path}/none/picture.png"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        error = capsys.readouterr().err
        assert stop.value.code == 1
        assert error.startswith("error: ") and error.count("\n") == 1 and str(tmp_path) in error


def test_picture_is_the_same_each_time(store, tmp_path):
    for name in ("a.png", "b.png"):
        write_picture(store, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_picture_of_parcels_and_a_single_frame(tmp_path):
    """Spaces that are no image, and runs too short to choose frames from, are drawn too."""
    store = make_store(tmp_path / "store", np.ones((40, 1), bool), (1, 1), [1])
    write_picture(store, tmp_path / "picture.png")


def test_pictures_do_not_load_matplotlib_for_text(store):
    code = f"from data_tools.inspect.__main__ import main; main([{str(store.path)!r}])\n"
    code += "import sys; assert not {'matplotlib', 'tqdm', 'jax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


N_RUNS = 12
SECRET = "the-hidden-family"


@pytest.fixture
def study(tmp_path) -> Store:
    """Runs of smooth noise with figures of quality; one each is shuffled, restless, incomplete."""
    geometry = Geometry("toy", np.ones((32, 48), bool), (16, 16), (0, 48, 0, 32), 1.0)
    rng = np.random.default_rng(0)
    runs = {}
    for i in range(N_RUNS):
        images = rng.standard_normal((160, 32, 48))
        images = scipy.ndimage.gaussian_filter(images, (0.8, 5, 5), mode="wrap")
        frames = geometry.to_patches((images / images.std()).astype(np.float32))
        missing = [5, 6] if i == 3 else None
        qc = {"missing_share": 0.0, "temporal_snr": 50.0 + i, "global_spikes": i % 2}
        qc |= {"fd_mean": 0.1 + 0.01 * i, "nothing": None}
        if i == 4:
            frames = rng.permutation(frames)
        if i == 5:
            qc |= {"temporal_snr": 9.5, "global_spikes": 31}
        if i == 3:
            qc["missing_share"] = 0.0013
        name = "<script>alert(1)</script>" if i == 2 else f"sub-{i:02d}"
        runs[name] = {
            "frames_TxNxP": frames, "missing": missing, "qc": qc, "subject": str(i),
            "site": f"'\"><b>{i % 2}", "family": SECRET, "task": "rest", "motion": [0.1, 0.2],
        }  # fmt: skip
    skipped = [{"key": f"bad-{i}", "path": "f.gii", "reason": f"<i>Cut</i> {i}."} for i in range(7)]
    lines = "".join(f"{json.dumps(line)}\n" for line in skipped).encode()
    provenance = {"tool": "<u>tool</u>"}
    settings = {"restricted": ["family"], "provenance": provenance, "geometry": geometry}
    return write_small_store(tmp_path / "study", runs, extra={"skipped.jsonl": lines}, **settings)


def test_summary_judges_quality_and_hides_what_is_restricted(study, tmp_path):
    text = summary(study)
    for words in (
        "temporal SNR                          9.5    55.0     61.0    12",
        "global-signal spikes                    0       0       31    12",
        "framewise displacement, mean (mm)   0.100   0.155    0.210    12",
        "median of 8 runs  typical range",
        "typical              0.67    0.1 to 0.96",
        "skipped: 7 runs could not be converted",
        "bad-0: <i>Cut</i> 0.",
        "... and 2 more",
    ):
        assert words in text
    assert "far from typical" not in text and "nothing" not in text and SECRET not in text

    rng = np.random.default_rng(0)
    geometry = study.geometry
    frames = rng.standard_normal((160, *geometry.patch_mask.shape), np.float32)
    noise = write_small_store(
        tmp_path / "noise", {"a": {"frames_TxNxP": frames, "missing": None}}, geometry=geometry
    )
    text = " ".join(summary(noise).split())
    assert re.search("lag-1 autocorrelation far from typical -?0.0", text)
    assert "! Power at 0.01 to 0.1 Hz 0.1" in text and "are the frames in their order" in text
    assert re.search(
        "power above 0.2 Hz +not compared .* is of frames of 1 s", summary_at_2_s(noise)
    )


def summary_at_2_s(store: Store) -> str:
    path = store.path / "store.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tr": 2.0}))
    with pytest.raises(InputError, match="store.json does not match its .* --update-checksums"):
        Store(store.path)
    main([str(store.path), "--update-checksums"])
    return summary(Store(store.path))


class Page(html.parser.HTMLParser):
    """The tags of a page with their attributes, and the cells of its table of runs."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.rows, self._in_runs = [], [], False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "table":
            self._in_runs = dict(attributes).get("class") == "runs"
        if self._in_runs and tag == "tr":
            self.rows.append([])
        if self._in_runs and tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self._in_runs and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def test_report(study, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_MOST_PICTURES", 4)  # they take the time
    place = tmp_path / "new" / "report"
    main([str(study.path), f"--report={place}"])
    text = (place / "index.html").read_text()
    page = Page(text)

    # Nothing from elsewhere, nothing that a name smuggled in, nothing restricted.
    shown = {attributes["src"] for tag, attributes in page.tags if tag == "img"}
    assert {file.name for file in place.iterdir()} == shown | {"index.html"}
    runs = {f"run-{run:05d}.png" for run in (0, 1, 3, 5)}  # the first, least complete, restless
    assert shown == runs | {"histograms.png", "maps.png"}
    assert all((place / name).read_bytes().startswith(b"\x89PNG") for name in shown)
    assert "http" not in text and SECRET not in text and "family" not in text
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 1 and not {"b ", "i", "u"} & set(tags)

    # The table of runs holds the numbers, and says which are suspect.
    head, *rows = page.rows
    assert head[:4] == ["run", "subject", "site", "frames"] and "motion" not in head
    assert [row[0] for row in rows] == [run["key"] for run in study.runs]
    cells = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert cells["sub-05"]["temporal SNR"] == "unlike other runs:9.5"
    assert cells["sub-05"]["global-signal spikes"] == "unlike other runs:31"
    assert cells["sub-04"]["lag-1 autocorrelation"].startswith("far from typical:")
    assert cells["<script>alert(1)</script>"]["missing pixels (share)"] == "0.0000"
    assert sum("from" in cell or "unlike" in cell for row in rows for cell in row) < 10
    assert "Far from typical in some figure: 1 of 12 runs." in text
    assert "worst by temporal SNR, 9.5; worst by global-signal spikes, 31" in text
    assert "&lt;i&gt;Cut&lt;/i&gt; 6." in text and "&lt;u&gt;tool" in text

    # Again, it takes the place of the old one; anything else it leaves alone.
    first = {file.name: file.read_bytes() for file in place.iterdir()}
    write_report(study, place)
    assert {file.name: file.read_bytes() for file in place.iterdir()} == first
    (place / "notes.txt").write_text("mine")
    for directory in (place, study.path, tmp_path):
        with pytest.raises(InputError, match="exists and is no report"):
            write_report(study, directory)
    assert (place / "notes.txt").read_text() == "mine"
    assert not list(place.parent.glob(".report*"))


def test_report_of_a_single_frame_of_parcels(tmp_path):
    store = make_store(tmp_path / "store", np.ones((40, 1), bool), (1, 1), [1])
    assert "toyset" in write_report(store, tmp_path / "report").read_text()


def test_which_runs_are_odd():
    values = [10.0, 11, 12, 10, 11, 12, 10, 90, -80, None]
    assert np.flatnonzero(odd_runs(values, "high")).tolist() == [7]
    assert np.flatnonzero(odd_runs(values, "low")).tolist() == [8]
    assert not any(odd_runs(values, "") + odd_runs(values[-7:], "high"))
    mostly_zero = [0.0] * 30 + [0.2]
    assert np.flatnonzero(odd_runs(mostly_zero, "high")).tolist() == [30]
    assert choose_runs([], 1) == {0: ["run 1 of 1"]}
