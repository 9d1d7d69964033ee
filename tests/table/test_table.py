"""A table of runs: seeds become rows, only what differs is a column, marks are as the note says."""

import csv
import re
import statistics
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools.errors import InputError
from fmrifm.runs.finished import read_runs
from fmrifm.table.choose import make_table
from fmrifm.table.words import decimals, order, shorten, shortest_ending
from fmrifm.table.write_table import write_table
from tests.runs.run_directories import write_probe, write_run

LOSSES = {0.5: (0.84, 0.85, 0.86), 0.75: (0.80, 0.82, 0.84), 0.9: (0.76, 0.77, 0.79)}


@pytest.fixture
def ablation(tmp_path):
    """Three mask ratios with three seeds each, a probe beside each run."""
    for ratio, losses in LOSSES.items():
        for seed, loss in enumerate(losses):
            path = write_run(
                tmp_path / "runs" / f"mask_ratio-{ratio}_seed-{seed}",
                {"eval/a/loss": loss},
                seed=seed,
                model__mask_ratio=ratio,
                model__size="d3",
                mesh__data=1 + seed,
                wandb_project=f"p{seed}",
            )
            write_probe(path / "probes" / "sex", 1 - loss)
    return tmp_path / "runs"


def body(text):
    """The cells of a Markdown table, without the header."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def rows_of(path):
    return list(csv.DictReader(path.open()))


def test_runs_that_differ_in_their_seed_are_a_row(ablation, tmp_path):
    text = write_table(make_table(read_runs([f"{ablation}/*"])), tmp_path / "out")
    assert text == (tmp_path / "out" / "table.md").read_text()
    assert text.startswith("| mask_ratio | a/loss ↓ | test/accuracy ↑ |\n")
    # Squares of deviations: 2e-4, 8e-4 and 4.67e-4, over 6 degrees of freedom: 0.01563, so that
    # means differ from the first by more than three of these beyond 0.0469.
    assert body(text) == [
        ["0.5", "0.850 ± 0.010", "0.150 ± 0.010"],
        ["0.75", "0.820 ± 0.020", "0.180 ± 0.020"],
        ["0.9", r"**0.773** ± 0.015\*", r"**0.227** ± 0.015\*"],
    ]
    assert "reference (mask_ratio = 0.5, the first row)" in text
    assert "seeds (6 degrees of freedom): a/loss 0.016, test/accuracy 0.016." in text
    assert "Scores in full: probe/sex/cls_logistic/test/accuracy.\n" in text
    assert "last checkpoint" in text and "also differ in mesh.data, wandb_project, which" in text

    rows = rows_of(tmp_path / "out" / "table.csv")
    for row, (ratio, losses) in zip(rows, LOSSES.items(), strict=True):
        assert float(row["model.mask_ratio"]) == ratio
        assert float(row["eval/a/loss/mean"]) == pytest.approx(sum(losses) / 3, rel=1e-14)
        assert float(row["eval/a/loss/std"]) == pytest.approx(statistics.stdev(losses), rel=1e-12)
        assert row["eval/a/loss/n"] == "3" and row["reference"] == str(ratio == 0.5).lower()
    runs = rows_of(tmp_path / "out" / "runs.csv")
    assert len(runs) == 9
    assert runs[4] == {
        "run": "mask_ratio-0.75_seed-1", "seed": "1", "wandb_project": "p1", "mesh.data": "2",
        "model.mask_ratio": "0.75", "eval/a/loss": "0.82", "checkpoint": "last", "step": "10",
        "probe/sex/cls_logistic/test/accuracy": str(1 - 0.82),
        "workdir": str(ablation / "mask_ratio-0.75_seed-1"),
    }  # fmt: skip
    assert (tmp_path / "out" / "table.png").read_bytes()[1:4] == b"PNG"


def test_the_hub_of_an_ablation_is_its_reference_and_needs_no_seeds(tmp_path):
    ways = ({"decoding": "cross"}, {}, {"class_token": False}, {"mask_ratio": 0.8})
    for i, way in enumerate(ways):
        fields = {"decoding": "attn", "class_token": True, "mask_ratio": 0.9} | way
        fields = {f"model__{name}": value for name, value in fields.items()}
        write_run(tmp_path / str(i), {"eval/a/loss": 0.5 + i / 10}, **fields)
    runs = read_runs([str(tmp_path)])
    table = make_table(runs)
    assert table.reference.runs == (runs[1],) and table.why == "the row most like the others"
    text = write_table(make_table(runs), tmp_path / "out")
    assert "No row has several seeds, so no difference is marked." in text and r"\*" not in text
    for reference in ("decoding=cross", "decoding!=attn,mask_ratio>0.8"):
        assert make_table(runs, reference=reference).reference.runs == (runs[0],)
    with pytest.raises(InputError, match="decoding=attn holds for 3 rows: name one row"):
        make_table(runs, reference="decoding=attn")


def test_a_row_of_one_seed_is_judged_by_the_deviations_of_the_others(tmp_path):
    for name, size, losses in (
        ("a", "d3", (0.5, 0.52)),
        ("b", "d6", (0.4,)),
        ("c", "d12", (0.49,)),
    ):
        for seed, loss in enumerate(losses):
            write_run(
                tmp_path / f"{name}{seed}", {"eval/a/loss": loss}, seed=seed, model__size=size
            )
    text = write_table(make_table(read_runs([str(tmp_path)])), tmp_path / "out")
    assert body(text) == [  # pooled: 0.0141
        ["d3", "2", "0.510 ± 0.014"],
        ["d6", "1", r"**0.400**\*"],
        ["d12", "1", "0.490"],
    ]
    assert "(1 degree of freedom): a/loss 0.014." in text
    assert rows_of(tmp_path / "out" / "table.csv")[1]["eval/a/loss/std"] == ""


@pytest.mark.parametrize(
    "where, left",
    [
        ("model.mask_ratio<=0.75", 6),
        ("mask_ratio<0.75", 3),
        ("mask_ratio=.9", 3),
        ("mask_ratio=0.*", 9),
        ("mask_ratio!=0.9,seed>0", 4),
        ("mask_ratio>=0.75,seed!=2,size=d*", 4),
        ("keep_best=none", 9),
        ("model.size=d,seed=0", 0),
    ],
)
def test_where_keeps_runs(ablation, where, left):
    runs = read_runs([str(ablation)])
    if left:
        assert len(make_table(runs, where).runs) == left
    else:
        with pytest.raises(InputError, match="Of 9 runs none has model.size=d,seed=0"):
            make_table(runs, where)


def test_a_value_may_have_commas_and_question_marks(tmp_path):
    for i, store in enumerate(("/x/hcp?task=REST,/x/nsd", "/x/hcp?task=WM,/x/nsd")):
        write_run(tmp_path / str(i), {"eval/a/loss": 0.5}, data__train=store)
    table = make_table(read_runs([str(tmp_path)]), "data.train=*=REST,/x/nsd,seed=0")
    assert [run.name for run in table.runs] == ["0"]


def test_rows_are_sorted_numbers_as_numbers(tmp_path):
    sizes = ("d12", "d3", "d6")
    for i, (size, batch) in enumerate((s, b) for s in sizes for b in (1024, 256)):
        scores = {"eval/a/loss": 0.5 - (0.3 if (size, batch) == ("d6", 256) else i / 100)}
        write_run(tmp_path / str(i), scores, batch_size=batch, model__size=size)
    runs = read_runs([str(tmp_path)])

    def found(sort):
        return [
            (row.fields["batch_size"], row.fields["model.size"])
            for row in make_table(runs, sort=sort).rows
        ]

    assert found("") == [(b, s) for b in (256, 1024) for s in ("d3", "d6", "d12")]
    assert found("-model.size,batch_size") == [
        (b, s) for s in ("d12", "d6", "d3") for b in (256, 1024)
    ]
    assert found("a/loss")[0] == found("-eval/a/loss")[-1] == (256, "d6")


def test_only_what_differs_of_long_values_is_shown(tmp_path):
    for n in (16, 128):
        store = f"/data/stores/hcp?subject=draw:{n}:1"
        write_run(tmp_path / str(n), {"eval/a/loss": n / 1000}, data__train=store, probe__train="")
    text = write_table(make_table(read_runs([str(tmp_path)])), tmp_path / "out")
    assert text.startswith("| data.train |")  # not train alone, which probe.train may be
    assert [cells[0] for cells in body(text)] == ["16", "128"]
    assert "data.train: /data/stores/hcp?subject=draw:…:1, where the table" in text
    rows = rows_of(tmp_path / "out" / "table.csv")
    assert rows[1]["data.train"] == "/data/stores/hcp?subject=draw:128:1"


def test_probes_of_models_that_differ_in_their_seed_are_a_row(tmp_path):
    for ratio in (0.5, 0.9):
        for seed in range(2):
            config = {
                "seed": 0, "model": f"/runs/mask_ratio-{ratio}_seed-{seed}", "heads": ["logistic"],
            }  # fmt: skip
            write_probe(tmp_path / f"{ratio}-{seed}", ratio + seed / 50, config)
    text = write_table(make_table(read_runs([str(tmp_path)])), tmp_path / "out")
    assert body(text) == [
        ["0.5", "0.510 ± 0.014"],
        ["0.9", r"**0.910** ± 0.014\*"],
    ]
    assert r"model: /runs/mask_ratio-…_seed-\*," in text and "checkpoint" not in text


def test_an_older_run_did_what_there_was(tmp_path):
    write_run(tmp_path / "old", {"eval/a/loss": 0.5}, seed=0)
    write_run(tmp_path / "new", {"eval/a/loss": 0.6}, seed=1, optim__name="adamw")
    assert len(make_table(read_runs([str(tmp_path)])).rows) == 1


def test_latex_is_escaped_and_balanced(tmp_path):
    for i, train in enumerate(("a_b&c%d#1$~^", "e\\{f}|<*")):
        for seed in range(2):
            scores = {"eval/a_b/loss": 0.5 + i + seed / 100}
            write_run(tmp_path / f"{i}{seed}", scores, seed=seed, data__train=train)
    write_table(make_table(read_runs([str(tmp_path)])), tmp_path / "out")
    text = (tmp_path / "out" / "table.tex").read_text()
    first, second = [line for line in text.splitlines() if re.search(r"\\pm.* \\\\$", line)]
    assert first.strip() == (
        r"a\_b\&c\%d\#1\$\textasciitilde{}\textasciicircum{} & $\mathbf{0.5050} \pm 0.0071$ \\"
    )
    assert second.strip() == (r"e\textbackslash{}\{f\}$|$$<$$*$ & $1.5050 \pm 0.0071^{*}$ \\")
    assert r"a\_b/loss $\downarrow$ \\" in text
    bare = re.sub(r"\\[{}%&#$_\\]", "", text)  # escaped ones
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert not set(bare) - set(map(chr, range(128))), "what pdflatex may not know"
    assert re.findall(r"\\begin{(\w+)}", text) == re.findall(r"\\end{(\w+)}", text)[::-1]
    (columns,) = re.findall(r"\\begin{tabular}{(\w+)}", text)
    assert {len(columns)} == {
        len(re.split(r"(?<!\\)&", line)) for line in text.splitlines() if line.endswith(r" \\")
    }


def test_metrics_are_chosen_and_must_be_everywhere(tmp_path):
    scores = {"eval/a/loss": 0.5, "eval/b/loss": 0.4, "eval/a/clips": 9}
    one = write_run(tmp_path / "one", scores, seed=0)
    write_run(tmp_path / "two", scores, seed=1)
    write_probe(one / "probes" / "sex", 0.7)
    runs = read_runs([str(tmp_path)])
    table = make_table(runs)
    assert table.metrics == ["eval/a/loss", "eval/b/loss"]  # not clips: nobody wants more
    assert table.left_out == ["probe/sex/cls_logistic/test/accuracy"]
    assert make_table(runs, metrics=["b/loss", "eval/a/*"]).metrics == [
        "eval/b/loss", "eval/a/loss_of_zero", "eval/a/loss", "eval/a/clips",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"two has no probe/sex/cls_logistic/test/accuracy: leave"):
        make_table(runs, metrics=["*accuracy"])
    with pytest.raises(InputError, match=r"No run has 'eval/a/los': did you mean eval/a/loss\?"):
        make_table(runs, metrics=["eval/a/los"])


def test_a_score_that_is_not_a_number_is_shown_and_spoils_nothing(tmp_path):
    for size, losses in (("d3", (0.5, 0.52)), ("d6", (0.6, float("nan"))), ("d9", (0.7, 0.72))):
        for seed, loss in enumerate(losses):
            scores = {"eval/a/loss": loss}
            write_run(tmp_path / f"{size}{seed}", scores, seed=seed, model__size=size)
    runs = read_runs([str(tmp_path)])
    text = write_table(make_table(runs, sort="-a/loss"), tmp_path / "out")
    assert [cells[1] for cells in body(text)] == [
        "0.710 ± 0.014", r"**0.510** ± 0.014\*", "nan",
    ]  # fmt: skip
    assert "(2 degrees of freedom): a/loss 0.014." in text
    assert r"0.014\*" not in write_table(make_table(runs, reference="size=d6"), tmp_path / "out")


@pytest.mark.parametrize(
    "options, told",
    [
        ({"where": "mask_ratoi=0.9"}, "No run has 'mask_ratoi': did you mean model.mask_ratio?"),
        ({"where": "train=x"}, "'train' may be data.train or probe.train: write more of it."),
        ({"where": "seed"}, "'seed' is no condition: write field=value"),
        ({"where": "seed<low"}, "'seed<low' compares with no number"),
        ({"sort": "lr"}, "No run has 'lr': see config.json of a run."),
        ({"reference": "seed=0"}, "No run has 'seed'"),  # of rows
    ],
)
def test_flags_that_make_no_sense_are_told_and_nothing_is_written(tmp_path, options, told):
    fields = {"model__mask_ratio": 0.9, "data__train": "a", "probe__train": ""}
    run = write_run(tmp_path / "run", {"eval/a/loss": 0.5}, **fields)
    with pytest.raises(InputError, match=re.escape(told)):
        write_table(make_table(read_runs([str(run)]), **options), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_stand_in_one_table_is_refused(tmp_path):
    a = write_run(tmp_path / "a", {"eval/a/loss": 0.5, "eval/b/loss": 0.5}, seed=0)
    twin = write_run(tmp_path / "twin", {"eval/a/loss": 0.5}, seed=0, mesh__data=8)
    with pytest.raises(InputError, match="a and .*/twin have one seed and differ in nothing"):
        make_table(read_runs([str(a), str(twin)]))
    best = write_run(
        tmp_path / "best", {"eval/a/loss": 0.5, "eval/b/loss": 0.6}, seed=1, keep_best="a"
    )
    with pytest.raises(InputError, match="'last', .*/best by 'best on a': take --checkpoint=last"):
        make_table(read_runs([str(a), str(best)]))
    assert make_table(read_runs([str(a), str(best)], "last")).checkpoint == "last"
    text = write_table(make_table(read_runs([str(best)])), tmp_path / "out")
    assert "| b/loss ↓ |\n" in text and "checkpoint of each run that was best on a" in text
    probe = write_probe(tmp_path / "probe", 0.5, {"seed": 0})
    with pytest.raises(InputError, match="/probe by 'a probe'"):
        make_table(read_runs([str(a), str(probe)]))


def test_the_command(ablation, tmp_path):
    command = [sys.executable, "-m", "fmrifm.table", f"--runs={ablation}/*0.5*,{ablation}/*0.9*"]
    options = ["--sort=-mask_ratio", "--metrics=eval/*/loss", "--where=seed<2"]
    told = subprocess.run(
        [*command, f"--output={tmp_path}/out", *options], capture_output=True, text=True, check=True
    )
    assert [cells[0] for cells in body(told.stdout)] == ["0.9", "0.5"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "table.md", "table.tex", "table.csv", "table.png", "runs.csv", "hparams",
    }  # fmt: skip


@given(st.lists(st.text("ab/:?=*", min_size=0, max_size=30), min_size=1, max_size=4))
def test_what_is_cut_off_values_can_be_put_back(values):
    texts, full = shorten(values)
    if full is None:
        assert texts == values
    else:
        assert [full.replace("…", text) for text in texts] == values
        assert all(texts)


@given(st.lists(st.text("ab.", min_size=1, max_size=6), min_size=1, max_size=6, unique=True))
def test_short_names_are_endings_of_one_name(names):
    short = [shortest_ending(name, names, ".") for name in names]
    assert len(set(short)) == len(names)
    assert all(name.endswith(end) for name, end in zip(names, short, strict=True))


def test_numbers_have_two_digits_of_their_deviation():
    assert [decimals(x, 0.5) for x in (0.0123, 0.99, 1.5, 123.0, 1e-12)] == [3, 2, 1, 0, 8]
    assert [decimals(x, 0.8123) for x in (0.0, float("nan"))] == [4, 4]
    values = ["d12", None, 0.5, "d3", True, [1, 2]]
    assert sorted(values, key=order) == [None, 0.5, True, [1, 2], "d3", "d12"]
