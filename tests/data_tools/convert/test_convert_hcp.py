"""The HCP release: acquisitions and their names, event files, batches of families, conversion."""

import csv
import json
import pickle

import numpy as np
import pytest

from data_tools.convert.releases.hcp import find_hcp_runs, read_evs
from data_tools.convert.releases.hcp_batches import (
    N_BATCHES,
    family_batches,
    parse_numbers,
    read_batches,
    read_families,
)
from data_tools.convert_hcp import add_batches, main
from data_tools.errors import InputError
from data_tools.store.reader import Store
from tests.data_tools.simulate.simulated_trees import simulated_tree

MERGED = "tfMRI_7T_RETCCW_AP_RETCW_PA_RETEXP_AP_RETCON_PA_RETBAR1_AP_RETBAR2_PA"
# A pedigree of each subject; as numbers 98 comes before 102, as text after it.
PEDIGREES = {f"1{i:05d}": str(98 + i // 2) for i in range(60)}


def add_run(root, subject, acquisition, suffix="_Atlas_MSMAll"):
    folder = root / subject / "MNINonLinear" / "Results" / acquisition
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{acquisition}{suffix}.dtseries.nii").touch()
    return folder


def write_csv(path, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def root(tmp_path):
    for subject in PEDIGREES:
        add_run(tmp_path / "hcp", subject, "rfMRI_REST1_LR")
    return tmp_path / "hcp"


@pytest.fixture
def restricted(tmp_path):
    rows = [("Subject", "Age_in_Yrs", "Pedigree_ID"), *((s, 30, p) for s, p in PEDIGREES.items())]
    return write_csv(tmp_path / "restricted.csv", rows)


def test_acquisitions_and_their_names(tmp_path):
    add_run(tmp_path, "100307", "rfMRI_REST2_RL")
    (add_run(tmp_path, "100307", "tfMRI_WM_LR") / "EVs").mkdir()
    add_run(tmp_path, "100307", "tfMRI_EMOTION_RL")
    add_run(tmp_path, "100206", "tfMRI_MOVIE1_7T_AP")
    add_run(tmp_path, "100206", "rfMRI_REST1_7T_PA", suffix="_Atlas_MSMAll_hp2000_clean")
    for subject in ("100206", "100307"):
        add_run(tmp_path, subject, MERGED)
    # The second level of an analysis, and a folder of no subject.
    (tmp_path / "100307" / "MNINonLinear" / "Results" / "tfMRI_WM").mkdir()
    add_run(tmp_path, "templates", "rfMRI_REST1_LR")

    runs, remarks = find_hcp_runs(tmp_path)
    assert [run.key for run in runs] == [
        "sub-100206_mod-tfMRI_task-MOVIE1_mag-7T_dir-AP",
        "sub-100307_mod-rfMRI_task-REST2_mag-3T_dir-RL",
        "sub-100307_mod-tfMRI_task-EMOTION_mag-3T_dir-RL",
        "sub-100307_mod-tfMRI_task-WM_mag-3T_dir-LR",
    ]
    assert [run.sidecar_tr for run in runs] == [1.0, 0.72, 0.72, 0.72]
    assert [run.read_events is not None for run in runs] == [False, False, False, True]
    names = {"subject": "100206", "mod": "tfMRI", "task": "MOVIE1", "mag": "7T", "dir": "AP"}
    assert runs[0].fields == names
    assert [remark.split(": ")[1] for remark in remarks] == [f"{MERGED} (2 runs).", "1."]
    assert pickle.loads(pickle.dumps(runs))[3].read_events() == []

    def keys(**options):
        return [run.key[4:10] for run in find_hcp_runs(tmp_path, **options)[0]]

    (tmp_path / "list.txt").write_text("\ufeff100307\n100408\n999999\n")
    remark = find_hcp_runs(tmp_path, subjects=str(tmp_path / "list.txt"))[1][-1]
    assert "list.txt that are not there: " in remark and remark.endswith("999999.")
    assert keys(subjects=str(tmp_path / "list.txt"), tasks="REST*,WM") == ["100307", "100307"]
    assert keys(suffix="_Atlas_MSMAll_hp2000_clean") == ["100206"]
    for bad, words in ((tmp_path / "none", "is no directory"), (tmp_path / "100307", "No run was")):
        with pytest.raises(InputError, match=words):
            find_hcp_runs(bad)


def test_events(tmp_path):
    (tmp_path / "story.txt").write_text("30.5\t10\t1.0\n8 4.5 0.25\n\n")
    (tmp_path / "math.txt").write_text("30.5\t3\t1.0\n")
    (tmp_path / "never.txt").write_text("")
    (tmp_path / "Sync.txt").write_text("8.001\n")
    (tmp_path / "._math.txt").write_bytes(b"\0\xff")
    assert read_evs(tmp_path) == [
        {"onset": 8.0, "duration": 4.5, "trial_type": "story", "value": 0.25},
        {"onset": 30.5, "duration": 3.0, "trial_type": "math", "value": 1.0},
        {"onset": 30.5, "duration": 10.0, "trial_type": "story", "value": 1.0},
    ]
    for line in ("1 2", "1 2 three", "nan 2 1", "1 2 3 4"):
        (tmp_path / "math.txt").write_text(f"0 1 1\n{line}\n")
        with pytest.raises(InputError, match=r"Line 2 of .*math\.txt is no onset"):
            read_evs(tmp_path)


def test_batches_are_those_of_the_reference(restricted):
    families, column = read_families(restricted)
    assert column == "Pedigree_ID"
    assert [families[subject] for subject in sorted(PEDIGREES)] == [i // 2 for i in range(60)]
    batches = family_batches([*PEDIGREES, "999999"], families)
    # By hand: shuffle the labels of the 30 families, and cut them into twenty pieces.
    order = np.random.RandomState(2912).permutation(30)
    of_family = {
        label: batch
        for batch, piece in enumerate(np.array_split(order, N_BATCHES))
        for label in piece
    }
    assert batches == {subject: of_family[families[subject]] for subject in PEDIGREES}
    with pytest.raises(InputError, match="is 5, too few for 20 batches"):
        family_batches(list(PEDIGREES)[:10], families)


def test_batches_and_families_in_the_run_table(root, restricted, tmp_path):
    runs, _ = find_hcp_runs(root)
    kept, remarks = add_batches(runs, root, restricted, None, parse_numbers("0-17"))
    assert {run.fields["batch"] for run in kept} == set(range(18)) and len(kept) < len(runs)
    assert all(run.fields["family"] == int(PEDIGREES[run.fields["subject"]]) - 98 for run in kept)
    assert "are of 1,098 subjects: 60 have a folder here" in remarks[0]

    # Whom the table does not know is in no batch; which subjects are asked for changes no batch.
    add_run(root, "200000", "rfMRI_REST1_LR")
    more, remarks = add_batches(find_hcp_runs(root)[0], root, restricted, None, None)
    assert remarks[-1].endswith("tables do not have them: 1.")
    assert more[-1].fields.keys() == {"subject", "mod", "task", "mag", "dir"}
    some = find_hcp_runs(root, subjects="10000*")[0]
    (same,) = add_batches(some, root, restricted, None, frozenset({more[3].fields["batch"]}))[0][
        -1:
    ]
    assert same.fields["batch"] == more[3].fields["batch"]

    # A few families are too few for batches, which only matters to who asks for them.
    add_run(tmp_path / "few", "100001", "rfMRI_REST1_LR")
    (few,), _ = find_hcp_runs(tmp_path / "few")
    (run,), remarks = add_batches([few], tmp_path / "few", restricted, None, None)
    assert run.fields["family"] == 0 and "batch" not in run.fields and "too few" in remarks[0]
    with pytest.raises(InputError, match="too few"):
        add_batches([few], tmp_path / "few", restricted, None, frozenset({0}))

    # A given table goes before; the published form is JSON.
    table = tmp_path / "published.json"
    table.write_text(json.dumps({"batch-00": ["100000"], "batch-07": ["100001", "100002"]}))
    assert read_batches(table) == {"100000": 0, "100001": 7, "100002": 7}
    kept, _ = add_batches(runs, root, restricted, table, frozenset({7}))
    assert [(run.fields["subject"], run.fields["family"]) for run in kept] == [
        ("100001", 0),
        ("100002", 1),
    ]
    table = write_csv(tmp_path / "t.csv", [("batch", "subject"), (3, "100005"), (3, "100005")])
    assert read_batches(table) == {"100005": 3}
    assert parse_numbers("0-2,5") == {0, 1, 2, 5}


def test_tables_that_cannot_be_used_keep_their_secrets(root, tmp_path, capsys):
    secret = "77123"
    table = tmp_path / "t.csv"

    def fails(words, *flags):
        with pytest.raises(SystemExit):
            main([f"--input={root}", f"--output={tmp_path / 'store'}", *flags])
        printed = capsys.readouterr()
        assert words in printed.err and printed.err.count("\n") == 1, printed.err
        assert secret not in printed.out + printed.err
        assert not (tmp_path / "store").exists()

    write_csv(table, [("Subject", "Age"), ("100000", secret)])
    fails("no column 'Pedigree_ID' or 'Family_ID'", f"--restricted-csv={table}")
    rows = [("Subject", "Pedigree_ID"), ("100000", secret), ("100001", 2), ("100000", 3)]
    write_csv(table, rows)
    fails("Lines 2 and 4 of", f"--restricted-csv={table}")
    write_csv(table, [*rows[:2], ("100001", secret, 3)])
    fails("Line 3 of", f"--restricted-csv={table}")
    table.write_bytes(b"\xff\xfe\0")
    fails("is no table", f"--restricted-csv={table}")
    write_csv(table, [("subject", "batch"), ("100000", "a")])
    fails("number them", f"--batches-table={table}")
    write_csv(table, [("subject", "batch"), ("100000", 0)])
    fails("No run is in these batches", f"--batches-table={table}", "--batches=4")
    fails("give --restricted-csv or --batches-table", "--batches=0-17")
    fails("does not exist", f"--restricted-csv={tmp_path / 'none.csv'}")


def test_a_release_becomes_a_store(tmp_path_factory, tmp_path, capsys):
    tree = simulated_tree(tmp_path_factory, "hcp")
    subject = find_hcp_runs(tree)[0][0].fields["subject"]
    table = write_csv(tmp_path / "t.csv", [("subject", "batch"), (subject, 4)])
    main(
        [
            f"--input={tree}",
            f"--output={tmp_path / 'store'}",
            f"--subjects={subject}",
            f"--restricted-csv={tree / 'restricted.csv'}",
            f"--batches-table={table}",
            "--jobs=1",
        ]
    )
    store = Store(tmp_path / "store")
    assert f"{MERGED} (1 runs)" in capsys.readouterr().out
    assert store.geometry.space == "flat-fsLR-32k" and store.restricted == {"family"}
    assert {run["dataset"] for run in store.runs} == {"hcp"}
    assert {run["batch"] for run in store.runs} == {4} and {run["family"] for run in store.runs}
    trs = {run["mag"]: run["source_tr"] for run in store.runs}
    assert trs == {"3T": 0.72, "7T": 1.0}
    task = next(run for run in store.runs if run["mod"] == "tfMRI" and run["mag"] == "3T")
    assert {"onset", "duration", "trial_type", "value"} == task["events"][0].keys()
    assert np.isfinite(store.read(0, 0, 16)).all()
