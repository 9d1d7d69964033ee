"""The licence of published weights: found beside them, it goes wherever they go."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

# The one about models first: a bare LICENSE may be about code only.
BARE = "LICENSE"
LICENSE_NAMES = ("LICENSE.models", "LICENSE.txt", "LICENSE.md", BARE)
# Of repositories that may name theirs elsewhere only, by how their ids begin.
KNOWN = dict.fromkeys(("medarc/CortexMAE", "medarc/fm_mae", "medarc/fmri-fm"), "cc-by-nc-4.0")
URLS = {
    "apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "mit": "https://opensource.org/license/mit",
    "cc0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
}


def find_license(folders: Iterable[Path], name: str) -> tuple[str, str | None]:
    """The licence of weights.

    Args:
      folders: where it may lie, the nearest to the weights first.
      name: of the weights: a hub id, or a file name.

    Returns:
      Its text, "" if there is none, and its short id, None if unknown. A licence that is only
      named gets a notice that names it, which also goes before a file that may be about code.
    """
    text, short, sure = "", None, False
    for folder in reversed(list(folders)):
        short = _named_in_card(folder / "README.md") or short
        found = next((folder / n for n in LICENSE_NAMES if (folder / n).is_file()), None)
        if found:
            text, sure = found.read_text("utf-8", errors="replace"), found.name != BARE
    if short is None:
        short = next((known for begin, known in KNOWN.items() if name.startswith(begin)), None)
    if short is not None and not sure:
        text = _joined(_notice(name, short), text)
    return text, short


def kept_license(text: str, sources: Iterable[Mapping], found: str = "") -> str:
    """The licence that came with weights; where it was lost, what their sources tell of it.

    Args:
      text: that came with them, "" if none did.
      sources: see `ModelFiles`.
      found: what else there is to say then.
    """
    if text:
        return text
    told = (_notice(s["name"], s["license"]) for s in sources if s.get("license"))
    return _joined(*dict.fromkeys(told), found)


def cached_origin(weights: Path) -> tuple[str, list[Path]] | None:
    """Where a file of the hub's cache comes from: its id, and the folders of its licence.

    The cache has the form models--OWNER--NAME/snapshots/REVISION/...; None for other paths.
    """
    # Not resolved: the files of a snapshot are links to blobs without names.
    weights = Path(os.path.abspath(weights))
    for top in weights.parents:
        owner = re.fullmatch(r"models--(.+?)--(.+)", top.parent.parent.name)
        if owner and top.parent.name == "snapshots":
            name = f"{owner[1]}/{owner[2]}:{weights.relative_to(top).as_posix()}"
            return name, list(dict.fromkeys([weights.parent, top]))
    return None


def _named_in_card(path: Path) -> str | None:
    """The short id in the front matter of a model card."""
    if not path.is_file():
        return None
    card = path.read_text("utf-8", errors="replace")
    front = re.match(r"---\r?\n(.*?)\r?\n---", card, re.DOTALL)
    named = front and re.search(r"^license:[ \t]*['\"]?([\w.+-]+)", front[1], re.MULTILINE)
    return named[1].lower() if named else None


def _joined(*texts: str) -> str:
    return "\n".join(text for text in texts if text)


def _notice(name: str, short: str) -> str:
    url = URLS.get(short)
    creative = re.fullmatch(r"cc-([a-z-]+)-(\d\.\d)", short)
    if creative:
        url = f"https://creativecommons.org/licenses/{creative[1]}/{creative[2]}/"
    text = f"The weights {name} are published by their authors under {short.upper()}"
    text += f":\n{url}\n" if url else ".\n"
    if "-nc" in short:
        text += "Use them, and what is made from them, for non-commercial purposes only.\n"
    return f"{text}fmrifm keeps this beside every model that descends from them, see config.json.\n"
