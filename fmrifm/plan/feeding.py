"""What the hosts must read so that chips need not wait, and the settings of `data` that do it."""

import math
from collections.abc import Iterator

# From page cache a core copies 3,800 clips and more in a second (tests/benchmarks/loader.py).
_CLIPS_A_THREAD = 3000
# Of an object store in the same region: seconds to the first byte, then bytes a second of one
# request (Amazon's guide to S3's performance: 100 to 200 ms in bad moments, 85 to 90 MB/s).
_LATENCY, _STREAM = 0.1, 85e6
# What one Python process takes in through fsspec: 650 MB/s beside a server on the same two cores
# (tests/benchmarks/remote.py), less with encryption.
_A_PROCESS = 400e6
_CLIPS_A_WINDOW = 4


def plan_feeding(
    clips_per_second: float, clip_bytes: float, frames: int, hosts: int, chips: int
) -> dict[str, float]:
    """Rates, and settings that meet them.

    Args:
      clips_per_second: of all chips.
      clip_bytes, frames: what is read for a clip.

    Returns:
      bytes_per_second of a `chip` and of a `host`; `threads` that read that from page cache or a
      disk as quick; `workers` and `requests` (of each) that read it from an object store;
      `window`, frames that four clips may come from, and `window_share`, the part of the bytes
      that they then need.
    """
    window = -(-3 * frames // 2)
    host = clips_per_second * clip_bytes / hosts
    under_way = host / clip_bytes * (_LATENCY + clip_bytes / _STREAM)
    workers = math.ceil(host / _A_PROCESS)
    return {
        "chip": clips_per_second * clip_bytes / chips,
        "host": host,
        "threads": max(2, math.ceil(host / clip_bytes / _CLIPS_A_THREAD)),
        "workers": workers,
        "requests": math.ceil(under_way / workers),
        "window": window,
        "window_share": window / (_CLIPS_A_WINDOW * frames),
    }


def describe_feeding(feeding: dict[str, float]) -> Iterator[tuple[str, str]]:
    """Rows of the table."""
    yield (
        "hosts read",
        f"{feeding['chip'] / 1e9:,.2f} GB/s a chip, {feeding['host'] / 1e9:,.2f} GB/s a host "
        f"({8 * feeding['host'] / 1e9:,.0f} Gbit/s)",
    )
    yield "  from local disks", f"--config.data.threads={feeding['threads']}"
    yield (
        "  from a bucket",
        f"--config.data.workers={feeding['workers']} --config.data.requests={feeding['requests']}, "
        f"at {1e3 * _LATENCY:g} ms to the first byte and {_STREAM / 1e6:g} MB/s a request",
    )
    yield (
        "  or with less",
        f"--config.data.clips_per_window={_CLIPS_A_WINDOW} --config.data.window="
        f"{feeding['window']} reads {feeding['window_share']:.0%}; --config.data.cache_dir keeps "
        "what came on a local disk",
    )
