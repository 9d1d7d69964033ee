"""Reads mutated inputs with all readers, and says what is neither right nor refused.

    python -m tests.reliability.fuzz --mutants=200000 --seed=0 --save=DIR [--readers=arrow,store]
    python -m tests.reliability.fuzz --replay=DIR|corpus

Prints a table of outcomes, and one line for each distinct fault (reader, kind, line). With --save
the first inputs of each fault are kept: DIR/READER/INDEX.json, a case as the corpus has them.
"""

import argparse
import base64
import collections
import dataclasses
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.reliability.hostile import HOSTILE
from tests.reliability.mutations import mutate
from tests.reliability.readers import READERS

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).with_name("corpus.jsonl")
FINE = ("ok", "refused")
OUTCOMES = (*FINE, "wrong", "error", "memory", "slow", "hang", "death", "invalid")
_HANG = 30.0  # seconds; other work may run on the machine
_KEPT = 2  # inputs of each fault


@dataclasses.dataclass(frozen=True)
class Result:
    """How one mutant was read; `outcome` is one of OUTCOMES."""

    reader: str
    index: int
    file: str
    kind: str
    outcome: str
    where: str

    @property
    def fault(self) -> tuple[str, str, str]:
        return self.reader, self.outcome, self.where.split(": ")[0].split(" (")[0]


class Worker:
    """A process that reads mutants; started again where a mutant ends it."""

    def __init__(self, scratch: str):
        self._scratch, self._process = scratch, None

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def run(self, reader: str, first: int, last: int, **job: Any) -> Iterator[Result]:
        """Reads the mutants from `first` to before `last`."""
        while first < last:
            pending = None
            self._send({"reader": reader, "first": first, "last": last} | job)
            while True:
                told = self._receive()
                if told is None or "index" in told:
                    ended = told is None
                    if ended:
                        outcome, where = self._end()
                        told = (pending or {"index": first, "file": "", "kind": ""}) | {
                            "outcome": outcome,
                            "where": where,
                        }
                    if "outcome" not in told:
                        pending = told
                        continue
                    yield Result(reader, **told)
                    first = max(first, told["index"] + 1)
                    if ended:
                        break
                else:
                    first = last
                    break

    def _send(self, job: dict[str, Any]) -> None:
        if self._process is None:
            environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.reliability.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
                env=environment,
            )
            self._left = b""
        self._process.stdin.write(json.dumps(job | {"scratch": self._scratch}).encode() + b"\n")
        self._process.stdin.flush()

    def _receive(self) -> dict[str, Any] | None:
        """The next answer; None where the process has died or is silent for too long."""
        handle = self._process.stdout.fileno()
        while b"\n" not in self._left:
            if not select.select([handle], [], [], _HANG)[0]:
                return None
            piece = os.read(handle, 2**16)
            if not piece:
                return None
            self._left += piece
        line, _, self._left = self._left.partition(b"\n")
        return json.loads(line)

    def _end(self) -> tuple[str, str]:
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self.close()
            return "hang", f"no answer for {_HANG:g} s"
        self._process = None
        return "death", signal.Signals(-code).name if code < 0 else f"exit {code}"


def mutant(reader: str, seed: int, index: int) -> tuple[str, bytes]:
    """The file and the bytes of a mutant, as the worker makes it."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        READERS[reader].make(folder)
        rng = random.Random(f"{seed}/{reader}/{index}")
        path = rng.choice(READERS[reader].files(folder))
        return str(path.relative_to(folder)), mutate(rng, path.read_bytes())[1]


def as_case(result: Result, seed: int) -> dict[str, str]:
    """A mutant as the corpus holds it."""
    file, data = mutant(result.reader, seed, result.index)
    return {
        "reader": result.reader,
        "name": " ".join(result.fault[1:]),
        "file": file,
        "data": _packed(data),
    }


def fuzz(worker: Worker, counts: dict[str, int], seed: int, first: int = 0) -> Iterator[Result]:
    """Reads so many mutants with each reader."""
    for reader, count in counts.items():
        yield from worker.run(reader, first, first + count, seed=seed)


def replay(worker: Worker, cases: Iterable[dict[str, str]]) -> Iterator[Result]:
    """Reads cases, those of one reader together."""
    of_reader = collections.defaultdict(list)
    for case in cases:
        of_reader[case["reader"]].append(case)
    for reader, some in of_reader.items():
        yield from worker.run(reader, 0, len(some), cases=some)


def corpus() -> list[dict[str, str]]:
    """Inputs that once were read wrong, or ended the process, and hostile ones."""
    found = [json.loads(line) for line in CORPUS.read_text().splitlines()]
    return found + [
        {"reader": reader, "name": name, "file": file, "data": _packed(make())}
        for name, (reader, file, make) in HOSTILE.items()
    ]


def _packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 1)).decode()


def shares(n_mutants: int, names: list[str]) -> dict[str, int]:
    """How many mutants each reader gets."""
    total = sum(READERS[name].share for name in names)
    return {name: max(1, round(n_mutants * READERS[name].share / total)) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.fuzz")
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--readers", default=",".join(READERS))
    parser.add_argument("--save", type=Path, help="folder for the inputs of faults")
    parser.add_argument("--replay", help="a folder of saved inputs to read again, or 'corpus'")
    args = parser.parse_args()
    counts = shares(args.mutants, args.readers.split(","))
    table = {name: collections.Counter() for name in READERS}
    faults: dict[tuple[str, ...], list[Result]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        worker, begun = Worker(scratch), time.monotonic()
        results = fuzz(worker, counts, args.seed, args.first)
        if args.replay == "corpus":
            results = replay(worker, corpus())
        elif args.replay:
            files = sorted(Path(args.replay).rglob("*.json"))
            results = replay(worker, [json.loads(file.read_text()) for file in files])
        for result in results:
            table[result.reader][result.outcome] += 1
            if result.outcome in FINE:
                continue
            same = faults.setdefault(result.fault, [])
            same.append(result)
            if len(same) == 1:
                print(f"{result.reader} {result.index} {result.file} {result.kind}: ", end="")
                print(f"{result.outcome} {result.where}", flush=True)
            if args.save and len(same) <= _KEPT and result.outcome != "invalid":
                place = args.save / result.reader.replace(" ", "_") / f"{result.index}.json"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(json.dumps(as_case(result, args.seed)))
        worker.close()
    print(f"\n{'reader':<16}" + "".join(f"{name:>9}" for name in OUTCOMES))
    for name, found in table.items():
        if found:
            print(f"{name:<16}" + "".join(f"{found[x]:>9,}" for x in OUTCOMES))
    total = sum(table.values(), collections.Counter())
    print(f"{'all':<16}" + "".join(f"{total[x]:>9,}" for x in OUTCOMES))
    seconds = time.monotonic() - begun
    print(f"{len(faults)} distinct faults in {total.total():,} mutants, {seconds:.0f} s")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
