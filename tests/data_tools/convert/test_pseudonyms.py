"""Under pseudonyms no key, cell or message holds a label of somebody."""

from pathlib import Path

from data_tools.convert.pseudonyms import Pseudonyms
from data_tools.convert.raw_run import RunFiles


def test_short_labels_hide_no_other_fields():
    pseudonyms = Pseudonyms(bytes(range(32)))
    fields = {"subject": "01", "session": "01", "run": "01", "group": 1, "id": "sub-01"}
    run = RunFiles("ses-01_sub-01_run-01", Path("a/John Doe_hemi-L_bold.func.gii"), fields)
    hidden = pseudonyms.run(run)
    assert hidden.key == f"ses-01_sub-{pseudonyms.subject('01')}_run-01"
    assert hidden.fields == {
        "subject": pseudonyms.subject("01"), "session": "01", "run": "01", "group": 1
    }  # fmt: skip
    said = pseudonyms.scrub(
        "a/John Doe_hemi-L_bold.func.gii: put John Doe_hemi-R_bold.func.gii", run
    )
    assert "John" not in said and "Doe" not in said


def test_no_cell_holds_a_label_of_somebody():
    pseudonyms = Pseudonyms(bytes(range(32)))
    events = [
        {"onset": 1000, "duration": 1, "participant_id": 7, "code": 1000, "rt": 1001, "n": 1000},
        {"onset": 2, "duration": 1, "participant_id": 7, "code": 2000, "rt": 1, "n": 3,
         "stim sub-9": "sub-9/Anna.png and ANNA_1, by 2000-x; subject 01 and sub 01; subject fell"},
    ]  # fmt: skip
    columns = {
        "anna": {"old": "ANNA", "twin": "2000", "nr": 1, "note": "see anna-2", "acq": "anna"},
        "01": {"old": "1", "twin": "", "nr": 2, "note": "01 of sub-01", "SUB_ID": "x9"},
    }
    people = frozenset({"anna", "01", "1000", "2000"})
    runs = [
        RunFiles(f"sub-{name}_acq-anna", Path("/in/x"), {"subject": name} | fields, people=people,
                 read_events=lambda: events)
        for name, fields in columns.items()
    ]  # fmt: skip
    one, two = pseudonyms.runs(runs)
    anna, short, far, last = (pseudonyms.subject(x) for x in ("anna", "01", "2000", "9"))
    assert one.key == f"sub-{anna}_acq-{anna}" and two.key == f"sub-{short}_acq-{anna}"
    assert one.fields == {"subject": anna, "twin": far, "nr": 1, "note": f"see {anna}-2"}
    assert two.fields == {
        "subject": short, "twin": "", "nr": 2, "note": f"01 of sub-{short}",
        "SUB_ID": pseudonyms.subject("x9"),
    }  # fmt: skip
    first, second = one.read_events()
    assert (first["onset"], first["rt"], first["n"]) == (1000, 1001, 1000)
    assert (first["code"], second["code"]) == (pseudonyms.subject("1000"), far)
    assert first["participant_id"] == pseudonyms.subject("7")
    assert second[f"stim sub-{last}"] == (
        f"sub-{last}/{anna}.png and {anna}_1, by {far}-x; subject {short} and sub {short}; "
        "subject fell"
    )
    # Short labels are ids in a column that has nothing else; numbers there may be anything.
    columns = {"01": {"twin": "02", "arm": 2}, "02": {"twin": "01", "arm": 1}, "03": {"arm": 1}}
    runs = [RunFiles(f"sub-{x}", Path("/x"), {"subject": x} | some) for x, some in columns.items()]
    found = [run.fields for run in pseudonyms.runs(runs)]
    assert [fields.get("twin") for fields in found[:2]] == [pseudonyms.subject("02"), short]
    assert [fields["arm"] for fields in found] == [2, 1, 1]
    assert one.shown("sub-9 of Anna has 1.5 s") == f"sub-{last} of {anna} has 1.5 s"
