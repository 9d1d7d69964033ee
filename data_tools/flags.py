"""Command lines of the data tools: their parsers, and the types of their flags."""

import argparse
import sys
from collections.abc import Sequence

# Flags that take several values, written `--flag A B` or `--flag=A B`.
_LISTS = ("--input", "--surfaces", "--roi", "--parcels", "--confounds", "--restricted")


def command_parser(tool: str, description: str) -> argparse.ArgumentParser:
    """The parser of `python -m TOOL`; the lines of its description stay as they are."""
    return argparse.ArgumentParser(
        prog=f"python -m {tool}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads a command line, in which `--flag=A B` is two values of a flag that takes several."""
    lists = tuple(f"{name}=" for name in _LISTS)
    pieces = [
        piece
        for text in (sys.argv[1:] if argv is None else argv)
        for piece in (text.split("=", 1) if text.startswith(lists) else [text])
    ]
    return parser.parse_args(pieces)


def words(*texts: str) -> list[str]:
    """The words in texts, which commas separate."""
    return [word.strip() for text in texts for word in text.split(",") if word.strip()]


def positive(text: str) -> int:
    """A number of 1 or more on a command line."""
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} is not a whole number of 1 or more")
