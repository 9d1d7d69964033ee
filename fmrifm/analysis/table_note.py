"""What has to be known of a table: names of its columns, and the note below it."""

from fmrifm.analysis.table_fields import field_names, same_in_effect
from fmrifm.analysis.table_rows import LIMIT, Row, Table
from fmrifm.analysis.table_words import shorten, shortest_ending


def field_titles(table: Table) -> list[str]:
    names = field_names(table.runs)
    return [shortest_ending(name, names, ".") for name in table.fields]


def metric_titles(table: Table) -> list[str]:
    """At least what was scored and how: "held_out/loss"."""
    return [shortest_ending(name, table.metrics, "/", least=2) for name in table.metrics]


def field_columns(table: Table) -> list[tuple[list[str], str | None]]:
    """Of each field the texts of its rows, and what was cut off them, see `shorten`."""
    return [shorten([row.fields[name] for row in table.rows]) for name in table.fields]


def describe(table: Table) -> list[str]:
    """What has to be known of a table, in paragraphs."""
    counts = {len(row.runs) for row in table.rows}
    if counts == {1}:
        told = "One run a row."
    else:
        seeds = f"{counts.pop()} seeds" if len(counts) == 1 else "the seeds of a row"
        told = f"Mean ± standard deviation over {seeds}."
    if any(table.is_best(row, m) for row in table.rows for m in table.metrics):
        told += " Bold is the best mean."
    if table.checkpoint == "last":
        told += " Scores are of the last checkpoint of each run."
    elif table.checkpoint:
        told += (
            f" Scores are of the checkpoint of each run that was {table.checkpoint}; that loss "
            "chose it and is not shown."
        )
    return [" ".join([told, *_about_marks(table)]), *_about_columns(table)]


def _about_marks(table: Table) -> list[str]:
    if len(table.rows) == 1:
        return []
    pooled = dict(zip(metric_titles(table), map(table.pooled, table.metrics), strict=True))
    pooled = {title: told for title, told in pooled.items() if told[1]}
    if not pooled:
        return ["No row has several seeds, so no difference is marked."]
    counts = {n for _, n in pooled.values()}
    freedom = "degrees of freedom"
    if len(counts) == 1:
        n = counts.pop()
        freedom = f"{n} {freedom if n > 1 else 'degree of freedom'}"
    values = ", ".join(
        f"{title} {std:.2g}" + (f" ({n})" if counts else "") for title, (std, n) in pooled.items()
    )
    named = ", ".join([*_fields_of(table, table.reference), table.why])
    return [
        f"* differs from the reference ({named}) by more than {LIMIT} standard deviations of a "
        f"single run, pooled over rows with several seeds ({freedom}): {values}."
    ]


def _fields_of(table: Table, row: Row) -> list[str]:
    """The fields of a row, as the table shows them."""
    place = table.rows.index(row)
    texts = [column[place] for column, _ in field_columns(table)]
    return [f"{title} = {x}" for title, x in zip(field_titles(table), texts, strict=True)]


def _about_columns(table: Table) -> list[str]:
    notes = []
    titles = zip(metric_titles(table), table.metrics, strict=True)
    known = ("eval/", "probe/")  # nothing is unclear without these
    if cut := [name for title, name in titles if name not in (title, *(k + title for k in known))]:
        notes.append(f"Scores in full: {', '.join(cut)}.")
    for title, (_, full) in zip(field_titles(table), field_columns(table), strict=True):
        if full:
            notes.append(f"{title}: {full}, where the table shows what stands at the dots.")
    if same := same_in_effect(table.runs):
        notes.append(f"Runs also differ in {', '.join(same)}, which only changes rounding.")
    if table.left_out:
        notes.append(f"Not shown, as only some runs have it: {', '.join(table.left_out)}.")
    return notes
