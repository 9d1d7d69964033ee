"""Counts, sizes and paths as messages and tables write them."""

import os
from pathlib import Path


def count(n: int, noun: str) -> str:
    """Such as "1 run" and "1,200 runs"."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def format_bytes(n: float) -> str:
    """A number of bytes as people write it, such as "1.40 TB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}" if n < 100 else f"{n:.0f} {unit}"
        n /= 1000
    return f"{n:,.2f} TB"


def shorten_paths(names: list[str]) -> dict[str, str]:
    """Paths without the directories that all of them share."""
    parts = {name: Path(name).parts or ("",) for name in names}
    shared = len(os.path.commonprefix(list(parts.values()))) if parts else 0
    start = min([shared, *(len(x) - 1 for x in parts.values())])
    return {name: "/".join(x[start:]) for name, x in parts.items()}
