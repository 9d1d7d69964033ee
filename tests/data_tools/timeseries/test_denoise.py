"""Confounds: read, chosen and regressed; filters; figures of motion."""

import importlib.resources
import json

import numpy as np
import pytest
from nilearn.interfaces.fmriprep import load_confounds_strategy
from nilearn.signal import clean

from data_tools.errors import InputError
from data_tools.timeseries.confounds import (
    Confounds,
    check_n_frames,
    check_patterns,
    frame_figures,
    motion_figures,
    n_dummies,
    read_confounds,
    select_confounds,
)
from data_tools.timeseries.denoise import check_band, denoise

T, TR = 150, 2.0
TERMS = ("", "_derivative1", "_power2", "_derivative1_power2")


def fmriprep_table(n_frames=T, n_dummy=2, seed=0):
    """Columns by name, as fMRIPrep names and fills them; NaN where it writes n/a."""
    rng = np.random.default_rng(seed)
    table = {}
    sources = {"global_signal": 800, "csf": 900, "white_matter": 700}
    sources |= {f"{kind}_{axis}": 0 for kind in ("trans", "rot") for axis in "xyz"}
    for name, level in sources.items():
        x = level + rng.normal(size=n_frames).cumsum()
        slope = np.concatenate([[np.nan], np.diff(x)])
        table |= dict(zip((name + term for term in TERMS), (x, slope, x**2, slope**2), strict=True))
    for name in ("std_dvars", "dvars", "framewise_displacement"):
        table[name] = np.concatenate([[np.nan], rng.exponential(0.3, n_frames - 1)])
    table |= {f"a_comp_cor_{i:02d}": rng.normal(size=n_frames) for i in range(12)}
    time = np.pi * (np.arange(n_frames) + 0.5) / n_frames
    table |= {f"cosine{i:02d}": np.cos((i + 1) * time) for i in range(4)}
    spikes = np.eye(n_frames)
    table |= {f"non_steady_state_outlier{i:02d}": spikes[i] for i in range(n_dummy)}
    table |= {"motion_outlier00": spikes[7], "empty": np.full(n_frames, np.nan)}
    return table


def as_confounds(table):
    return Confounds(tuple(table), np.stack(list(table.values()), 1), "c.tsv")


def write_tsv(path, table):
    rows = zip(*table.values(), strict=True)
    text = ["\t".join(table)] + [
        "\t".join("n/a" if np.isnan(x) else repr(float(x)) for x in r) for r in rows
    ]
    path.write_text("\n".join(text) + "\n")
    return path


def bold(n_columns=20, n_frames=T, seed=1):
    """(T, X) float32 in scanner units, with drift; column 3 is constant and column 4 is 0."""
    rng = np.random.default_rng(seed)
    x = 9000 + 80 * rng.normal(size=(n_frames, n_columns)) + np.linspace(0, 300, n_frames)[:, None]
    x[:, 3], x[:, 4] = 1234.567, 0
    return x.astype(np.float32)


def test_table_is_read_as_written(tmp_path):
    table = fmriprep_table()
    read = read_confounds(write_tsv(tmp_path / "c.tsv", table))
    assert read.names == tuple(table)
    np.testing.assert_array_equal(read.values_TxC, as_confounds(table).values_TxC)


@pytest.mark.parametrize(
    "wanted, n_columns",
    [
        (["motion6"], 6),
        (["motion24"], 24),
        (["gsr"], 1),
        (["simple"], 30),
        (["36p"], 36),
        (["acompcor"], 33),
        (["simple", "gsr", "csf"], 31),
        (["trans_?", "a_comp_cor_0[0-4]", "motion_outlier*"], 9),
    ],
)
def test_presets_and_patterns(wanted, n_columns):
    table = fmriprep_table()
    x = select_confounds(as_confounds(table), wanted)
    assert x.shape == (T, n_columns) and x.dtype == np.float64 and np.isfinite(x).all()
    if "simple" in wanted:
        slope = table["trans_x_derivative1"]
        np.testing.assert_array_equal(x[:, 1], [slope[1], *slope[1:]])


@pytest.mark.parametrize("stem", ["test-v21", "test"], ids=["timeseries", "regressors"])
def test_simple_is_that_of_nilearn(tmp_path, stem):
    """On the tables of two versions of fMRIPrep that nilearn is tested with."""
    suffix = "timeseries" if stem == "test-v21" else "regressors"
    folder = importlib.resources.files("nilearn") / "interfaces" / "fmriprep" / "data"
    for ending in ("tsv", "json"):
        source = folder / f"{stem}_desc-confounds_{suffix}.{ending}"
        copy = tmp_path / f"sub-1_task-rest_desc-confounds_{suffix}.{ending}"
        copy.write_bytes(source.read_bytes())
    image = tmp_path / "sub-1_task-rest_space-fsLR_den-91k_bold.dtseries.nii"
    theirs, kept = load_confounds_strategy(str(image), denoise_strategy="simple", demean=False)
    confounds = read_confounds(tmp_path / f"sub-1_task-rest_desc-confounds_{suffix}.tsv")
    ours = select_confounds(confounds, ["simple"])
    np.testing.assert_allclose(np.sort(ours), np.sort(theirs.to_numpy()))
    assert n_dummies(confounds, "auto") == kept[0]


def components_of(tmp_path, name, masks, more=()):
    """The numbers of the components that acompcor takes of a table of a version of fMRIPrep."""
    table = {x: v for x, v in fmriprep_table().items() if not x.startswith("a_comp_cor")}
    noise = np.random.default_rng(3).normal(size=(12, T))
    table |= {f"a_comp_cor_{i:02d}": x for i, x in enumerate(noise)}
    table |= dict.fromkeys(more, noise[0])
    path = write_tsv(tmp_path / name, table)
    if masks:
        about = {f"a_comp_cor_{i:02d}": {"Mask": mask} for i, mask in enumerate(masks)}
        path.with_suffix(".json").write_text(json.dumps(about | {"tcompcor": None}))
    x = select_confounds(read_confounds(path), ["acompcor"])
    return [i for i, component in enumerate(noise) if (x == component[:, None]).all(0).any()]


@pytest.mark.parametrize(
    "name, masks, more, taken",
    [
        ("a_timeseries.tsv", ["CSF"] * 3 + ["WM"] * 3 + ["combined"] * 6, (), [6, 7, 8, 9, 10]),
        ("a_regressors.tsv", ["combined"] * 6 + ["CSF"] * 3 + ["WM"] * 3, (), [0, 1, 2, 3, 4]),
        ("a_regressors.tsv", None, (), [0, 1, 2, 3, 4]),
        ("a_timeseries.tsv", None, ("c_comp_cor_00", "w_comp_cor_00"), [0, 1, 2, 3, 4]),
        ("a_timeseries.tsv", ["CSF"] * 6 + ["combined"] * 3 + ["WM"] * 3, (), [6, 7, 8]),
    ],
    ids=["20.2", "20.1", "20.1 without JSON", "21", "few"],
)
def test_acompcor_takes_the_combined_mask_of_every_version(tmp_path, name, masks, more, taken):
    assert components_of(tmp_path, name, masks, more) == taken


@pytest.mark.parametrize("masks", [None, ["CSF"] * 6 + ["WM"] * 6])
def test_acompcor_guesses_no_mask(tmp_path, masks):
    with pytest.raises(InputError, match="a_timeseries.json, which says the mask of each"):
        components_of(tmp_path, "a_timeseries.tsv", masks)


def test_short_runs_have_no_cosines():
    table = {x: v for x, v in fmriprep_table(60).items() if not x.startswith("cosine")}
    assert select_confounds(as_confounds(table), ["simple"], seconds=127).shape == (60, 26)
    with pytest.raises(InputError, match="no column 'cosine\\*', which the preset 'simple'"):
        select_confounds(as_confounds(table), ["simple"], seconds=128)


def test_patterns_may_match_in_other_runs_only(tmp_path):
    table = fmriprep_table(20)
    still = {x: v for x, v in table.items() if x != "motion_outlier00"}
    paths = [write_tsv(tmp_path / f"{i}.tsv", x) for i, x in enumerate((still, table))]
    wanted = ("csf", "motion_outlier*")
    check_patterns(wanted, [tmp_path / "not there", *paths])
    for path, n_columns in zip(paths, (1, 2), strict=True):
        x = select_confounds(read_confounds(path), wanted, matched_elsewhere=True)
        assert x.shape == (20, n_columns)
    with pytest.raises(InputError, match="'motion_outlier\\*' matches no column in the tables"):
        check_patterns(wanted, paths[:1])
    with pytest.raises(InputError, match="'motion_outlier00' is neither"):
        select_confounds(as_confounds(still), ["motion_outlier00"], matched_elsewhere=True)


def test_columns_that_say_nothing_are_left_out():
    table = fmriprep_table()
    table |= {"again": table["csf"].copy(), "flat": np.full(T, 3.0)}
    confounds = as_confounds(table).part(slice(2, None))
    wanted = ["csf", "again", "flat", "non_steady_state_outlier*", "csf_derivative1"]
    x = select_confounds(confounds, wanted)
    # Without the first frames the derivative is known everywhere and nothing is filled in.
    np.testing.assert_array_equal(x, np.stack([table["csf"], table["csf_derivative1"]], 1)[2:])
    assert select_confounds(confounds, ["flat"]).shape == (T - 2, 0)


@pytest.mark.parametrize(
    "highpass, lowpass, preset",
    [(None, None, "36p"), (0.01, 0.1, "motion24"), (0.01, None, "36p"), (None, 0.1, None)],
)
def test_agrees_with_nilearn(highpass, lowpass, preset):
    x = bold()
    confounds = preset and select_confounds(as_confounds(fmriprep_table()), [preset])
    expected = clean(
        x.astype(np.float64),
        detrend=highpass is not None,
        standardize=None,
        confounds=confounds,
        low_pass=lowpass,
        high_pass=highpass,
        t_r=TR,
    )
    y = denoise(x, TR, confounds, highpass, lowpass)
    assert y.dtype == np.float32
    # nilearn takes the mean out or leaves it in, by option; we leave it in.
    expected += x.mean(0, dtype=np.float64) - expected.mean(0)
    np.testing.assert_allclose(y, expected, atol=5e-3)
    np.testing.assert_allclose(y.mean(0, dtype=np.float64), x.mean(0, dtype=np.float64), rtol=1e-6)


@pytest.mark.parametrize("highpass, lowpass", [(None, None), (0.01, 0.15)])
def test_artefact_goes_and_signal_stays(highpass, lowpass):
    rng = np.random.default_rng(2)
    n_frames = 400
    time = np.arange(n_frames)[:, None] * TR
    signal = 40 * np.sin(2 * np.pi * (rng.uniform(0.03, 0.08, 30) * time + rng.uniform(size=30)))
    artefact = rng.normal(size=(n_frames, 1)).cumsum(0)
    x = (8000 + signal + artefact * rng.uniform(20, 60, 30)).astype(np.float32)
    y = denoise(x, TR, artefact, highpass, lowpass)

    def correlations(a, b):
        return np.array([np.corrcoef(a[:, i], b[:, i % b.shape[1]])[0, 1] for i in range(30)])

    # What is in the band of the artefact is gone; what is outside it, the filter removed.
    in_band = denoise(artefact, TR, None, highpass, lowpass)
    assert abs(correlations(x, artefact)).min() > 0.9
    assert abs(correlations(y, in_band)).max() < 1e-3
    assert correlations(x, signal).max() < 0.5 and correlations(y, signal).min() > 0.95


def test_regression_brings_no_frequency_back():
    """The confound has power outside the band, which must not enter by its regression."""
    rng = np.random.default_rng(3)
    confound = rng.normal(size=(600, 1))
    x = (5000 + 100 * confound + rng.normal(size=(600, 5))).astype(np.float32)
    y = denoise(x, TR, confound, 0.01, 0.1)
    power = np.abs(np.fft.rfft(y - y.mean(0), axis=0)) ** 2
    frequencies = np.fft.rfftfreq(600, TR)
    assert power[frequencies > 0.13].sum() < 1e-3 * power.sum()


def test_constant_columns_stay_constant():
    x = bold()
    confound = np.linspace(0, 1, T)[:, None] ** 2
    x[:, 5] = 7000 + 500 * confound[:, 0]  # the confound explains all of it
    x[10, 6] = np.nan
    y = denoise(x, TR, confound, lowpass=0.1)
    np.testing.assert_array_equal(y[:, 3:5], x[:, 3:5])
    y = denoise(x, TR, confound)
    np.testing.assert_array_equal(y[:, 3:5], x[:, 3:5])
    assert np.ptp(y[:, 5]) == 0 and y[0, 5] == pytest.approx(x[:, 5].mean())
    # A bad column does not spoil its neighbours.
    assert np.isnan(y[:, 6]).all() and np.isfinite(np.delete(y, 6, 1)).all()
    assert np.ptp(np.delete(y, [3, 4, 5, 6], 1), axis=0).min() > 100


def test_nothing_to_do():
    x = bold()
    assert denoise(x, TR) is x and denoise(x, TR, np.empty((T, 0))) is x


def test_motion_figures():
    nan = np.nan
    table = {
        "framewise_displacement": np.array([nan, 0.1, 0.7, 0.5, 0.123456]),
        "global_signal": np.array([1.0, 2.0, 3.0, 4.0, 5.0]),
        "std_dvars": np.full(5, nan),
    }
    assert motion_figures(as_confounds(table)) == {
        "fd_mean": 0.3559,
        "fd_max": 0.7,
        "fd_share_above_0.5": 0.25,
        "global_signal_mean": 3.0,
        "global_signal_std": 1.4142,
    }
    frames = frame_figures(as_confounds(table).part(slice(1, None)))
    assert frames["framewise_displacement"] == [0.1, 0.7, 0.5, 0.1235]
    assert frames["std_dvars"] == [None] * 4
    assert motion_figures(as_confounds({"csf": np.ones(3)})) == {}
    assert set(motion_figures(as_confounds(fmriprep_table()))) > {"std_dvars_mean", "fd_mean"}


def test_dummies():
    confounds = as_confounds(fmriprep_table(n_dummy=3))
    assert n_dummies(confounds, "auto") == 3 and n_dummies(None, 4) == 4
    assert n_dummies(as_confounds(fmriprep_table(n_dummy=0)), "auto") == 0
    # A mark in the middle of the run is no reason to drop what comes before it.
    later = as_confounds({"non_steady_state_outlier00": np.eye(9)[5]})
    assert n_dummies(later, "auto") == 0


def write(tmp_path, content):
    path = tmp_path / "c.tsv"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content, words",
    [
        (b"\x1f\x8b\x08\x00\xff\xfe", "is no table"),
        (b"", "has no rows"),
        (b"csf\ttrans_x\n", "has no rows"),
        (b"0.5\t0.25\n1\t2\n", "has no header"),
        (b"csf\tcsf\n1\t2\n", "two columns 'csf'"),
        (b"csf\ttrans_x\n1\t2\n\n3\n", "Line 4 of .* has 1 columns and its header 2"),
    ],
)
def test_bad_tables(tmp_path, content, words):
    with pytest.raises(InputError, match=f"{words}.*\\.$"):
        read_confounds(write(tmp_path, content))


@pytest.mark.parametrize(
    "wanted, words",
    [
        ("trans_X", "'trans_X' is neither a preset nor a column of .*c.tsv.* such as trans_x, "),
        ("motion", "such as motion"),
        ("aroma*", "'aroma\\*' is neither"),
        ("motion24", "no column 'trans_x_derivative1', which the preset 'motion24' needs"),
        ("label", "Column 'label' of .*c.tsv is not a number in every frame"),
        ("hole", "Column 'hole' of"),
    ],
)
def test_bad_choices(tmp_path, wanted, words):
    content = b"trans_x\tlabel\thole\n" + b"1\ta\t1\n2\tb\tn/a\n3\tc\t1\n"
    confounds = read_confounds(write(tmp_path, content))
    with pytest.raises(InputError, match=f"{words}.*\\.$"):
        select_confounds(confounds, [wanted])


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda c: check_n_frames(c, 149, "a.gii"),
            "c.tsv has 150 rows and a.gii has 149",
        ),
        (lambda c: n_dummies(None, "auto", "sub-1"), "sub-1 has no table .*--drop-dummies=auto"),
        (lambda c: n_dummies(c, -1), "--drop-dummies=-1 is neither"),
        (lambda c: n_dummies(c, "some"), "--drop-dummies=some is neither"),
        (lambda c: check_band(0.1, 0.1), "--highpass=0.1 is not below --lowpass=0.1"),
        (lambda c: check_band(-0.1, None), "--highpass=-0.1 is no frequency"),
        (lambda c: check_band(None, float("nan")), "--lowpass=nan is no frequency"),
        (lambda c: denoise(bold(), TR, None, None, 0.25), "--lowpass=0.25 is not below 0.25 Hz"),
        (lambda c: denoise(bold(), TR, None, 0.3), "--highpass=0.3 is not below 0.25 Hz"),
        (lambda c: denoise(bold(n_frames=33), TR, None, 0.01), "33 frames, too few to filter"),
        (lambda c: denoise(bold(n_frames=37), TR, c.values_TxC[:37, :36]), "leave nothing"),
        (lambda c: denoise(bold(), TR, c.values_TxC[:, :36], 0.04, 0.1), "leave nothing"),
    ],
)
def test_bad_use(call, words):
    with pytest.raises(InputError, match=f"{words}.*\\.$"):
        call(as_confounds(fmriprep_table()))
