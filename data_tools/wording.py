"""Counts and sizes as messages write them."""


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
