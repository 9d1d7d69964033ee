"""Reads mutants in a process of its own, which a mutant may hang, kill or fill.

Takes jobs as lines of JSON on stdin: {"reader", "seed", "first", "last"}, with "cases" in place of
the seed to read cases of the corpus. Answers on stdout with a line before each mutant and one after
it.
"""

import base64
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from pathlib import Path

from tests.reliability.mutations import mutate
from tests.reliability.readers import READERS, Reader

MEMORY = 2**30  # bytes that a mutant may take
SECONDS = 5.0  # of CPU


def _status(name: str) -> int:
    """Bytes of an entry of /proc/self/status."""
    with open("/proc/self/status") as file:
        return next(int(x.split()[1]) * 1024 for x in file if x.startswith(name))


def fault(error: BaseException) -> str:
    """The kind of an error and the innermost line of ours where it came up."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [
        f for f in frames if "/tests/" not in f.filename and "site-packages" not in f.filename
    ]
    ours = [f for f in places if "data_tools" in f.filename or "fmrifm" in f.filename]
    last = (ours or frames)[-1]
    return f"{type(error).__name__} {Path(last.filename).name}:{last.lineno} ({last.name})"


def _memory_error(error: BaseException | None) -> BaseException | None:
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error


def attempt(reader: Reader, folder: Path) -> tuple[str, str]:
    """How reading a folder ends: ok, refused, wrong, error, memory or slow; and where."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # VmHWM counts from here
    held, begun = _status("VmRSS"), time.process_time()
    outcome, where = "ok", ""
    try:
        reader.read(folder)
    except AssertionError as error:
        outcome, where = "wrong", f"{fault(error)} {error}"[:200]
    except BaseException as error:
        if type(error).__name__ == "InputError":
            outcome, where = "refused", str(error)
        else:
            outcome, where = "error", f"{fault(error)}: {str(error)[:120]}"
        if found := _memory_error(error):
            outcome, where = "memory", fault(found)
    if _status("VmHWM") - held > MEMORY:
        outcome, where = "memory", f"{(_status('VmHWM') - held) / 2**30:.1f} GB"
    elif time.process_time() - begun > SECONDS:
        outcome, where = "slow", f"{time.process_time() - begun:.1f} s"
    return outcome, where


def _clear(folder: Path) -> None:
    """Removes what commands left, by the names that readers give it."""
    for name in (".out", ".out.partial"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _serve(out) -> None:
    def say(**told) -> None:
        out.write(json.dumps(told) + "\n")
        out.flush()

    for line in sys.stdin:
        job = json.loads(line)
        reader = READERS[job["reader"]]
        with tempfile.TemporaryDirectory(dir=job.get("scratch")) as place:
            folder, free = Path(place), resource.getrlimit(resource.RLIMIT_AS)[1]
            resource.setrlimit(resource.RLIMIT_AS, (free, free))
            reader.make(folder)
            outcome, where = attempt(reader, folder)
            _clear(folder)
            if outcome != "ok":
                say(index=-1, outcome="invalid", where=f"{outcome}: {where}", kind="", file="")
            # Libraries are loaded by now, so that all that comes is for the mutants.
            resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + 2 * MEMORY, free))
            files = reader.files(folder)
            whole = {path: path.read_bytes() for path in files}
            for index in range(job["first"], job["last"]):
                if "cases" in job:
                    case = job["cases"][index]
                    path, kind = folder / case["file"], case["name"]
                    data = zlib.decompress(base64.b64decode(case["data"]))
                else:
                    rng = random.Random(f"{job['seed']}/{job['reader']}/{index}")
                    path = rng.choice(files)
                    kind, data = mutate(rng, whole[path])
                file = str(path.relative_to(folder))
                path.write_bytes(data)
                say(index=index, file=file, kind=kind)
                outcome, where = attempt(reader, folder)
                say(index=index, file=file, kind=kind, outcome=outcome, where=where)
                _clear(folder)
                path.write_bytes(whole[path])
        say(done=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    # What readers print is of no interest, and must not stand between the answers.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2) if "FUZZ_STDERR" not in os.environ else None
    _serve(answers)
