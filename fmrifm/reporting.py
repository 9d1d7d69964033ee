"""A page to read: one HTML file with everything inside, pictures too."""

import base64
import html
from collections.abc import Iterable
from pathlib import Path

from data_tools.files.atomic import write_bytes

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #1b1b1f; }
h1 { font-size: 1.7rem; } h2 { margin-top: 2.2rem; font-size: 1.25rem; }
img { max-width: 100%; } figure { margin: 1rem 0; } figcaption { color: #555; font-size: .9rem; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .3rem .8rem;
       border-bottom: 1px solid #ddd; text-align: left; } td.n, th.n { text-align: right; }
tr.baseline { color: #777; } pre { background: #f4f4f6; padding: .8rem; overflow-x: auto;
       font-size: .82rem; } ul.notes { background: #fdf3e7; border-left: 4px solid #d9822b;
       padding: .8rem 1rem .8rem 2rem; } .big { font-size: 1.1rem; }
"""


class Page:
    """Collects sections and writes them as one self-contained page."""

    def __init__(self, title: str):
        self._parts = [f"<h1>{html.escape(title)}</h1>"]
        self._title = title

    def heading(self, text: str) -> None:
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str, big: bool = False) -> None:
        self._parts.append(f"<p{' class=big' if big else ''}>{html.escape(text)}</p>")

    def picture(self, path: Path, caption: str) -> None:
        data = base64.b64encode(path.read_bytes()).decode()
        self._parts.append(
            f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def table(self, header: list[str], rows: Iterable[list[str]], grey: Iterable[bool]) -> None:
        """Columns after the first are set to the right; grey rows are baselines."""

        def line(cells, tag, css=""):
            inner = "".join(
                f"<{tag}{' class=n' if i else ''}>{html.escape(str(cell))}</{tag}>"
                for i, cell in enumerate(cells)
            )
            return f"<tr{css}>{inner}</tr>"

        body = [
            line(row, "td", " class=baseline" if is_grey else "")
            for row, is_grey in zip(rows, grey, strict=True)
        ]
        self._parts.append(f"<table>{line(header, 'th')}{''.join(body)}</table>")

    def notes(self, texts: Iterable[str]) -> None:
        """A list of sentences, set off from the rest."""
        items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
        self._parts.append(f"<ul class=notes>{items}</ul>")

    def commands(self, lines: list[str]) -> None:
        self._parts.append(f"<pre>{html.escape(chr(10).join(lines))}</pre>")

    def write(self, path: Path) -> None:
        page = (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(self._title)}"
            f"</title><style>{STYLE}</style>{''.join(self._parts)}</html>"
        )
        write_bytes(path, page.encode())
