"""A table of finished runs, in all its forms."""

from collections.abc import Sequence
from pathlib import Path

from data_tools.files import write_bytes
from fmrifm.analysis.hparams import write_hparams
from fmrifm.analysis.runs import Run
from fmrifm.analysis.table_choices import make_table
from fmrifm.analysis.table_csv import rows_as_csv, runs_as_csv
from fmrifm.analysis.table_figure import draw_table
from fmrifm.analysis.table_forms import as_latex, as_markdown
from fmrifm.trainer.figures import save_figure


def write_table(
    runs: Sequence[Run],
    output: Path,
    where: str = "",
    sort: str = "",
    reference: str = "",
    metrics: Sequence[str] = (),
) -> str:
    """Writes table.md, table.tex, table.csv, table.png, runs.csv and hparams/ to a directory.

    Args:
      runs: see `read_runs`.
      output: made if it is not there.
      where, sort, reference, metrics: see `make_table`.

    Returns:
      The text of table.md.

    Raises:
      InputError: as `make_table`.
    """
    table = make_table(runs, where, sort, reference, metrics)
    text = as_markdown(table)
    files = {
        "table.csv": rows_as_csv(table),
        "table.tex": as_latex(table),
        "runs.csv": runs_as_csv(table),
        "table.md": text,
    }
    figure = draw_table(table)
    output.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_bytes(output / name, content.encode())
    save_figure(figure, output / "table.png")
    write_hparams(table.runs, table.metrics, output / "hparams")
    return text
