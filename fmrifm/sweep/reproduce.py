"""The command that repeats a run, and what is no longer as it was when the run began."""

import contextlib
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_tools.errors import InputError
from data_tools.store.reader import Store
from fmrifm.input.data import store_digest
from fmrifm.runs.config import config_dict, flatten
from fmrifm.runs.provenance import FILE, package_versions, read_starts, source_state
from fmrifm.sweep.arguments import flag_of, quote, read_config

_OUTPUT_FLAGS = {"fmrifm.embed": "--output"}  # of other mains it is --workdir


def reproduce(run: Path) -> str:
    """A script for `sh` that repeats a run in RUN_repeated.

    Its comments say what the run was made with and what has changed: the source, packages, the
    config that the command gives, stores. Fields that the command would give another value today
    are set to those of the run.

    Args:
      run: the workdir of a run or probe, or the output of `fmrifm.embed`.
    """
    run = Path(os.path.abspath(run))
    starts = read_starts(run)
    if not starts:
        raise InputError(
            f"{run} has no {FILE}, since it is no run or an older one: look for its config in "
            "config.json or results.json."
        )
    first = starts[0]
    if first["command"] is None:
        file = next(x for x in ("config.json", FILE) if (run / x).is_file())
        raise InputError(
            f"{run} was started from Python, not by a command: repeat it with the config in "
            f"{run / file}."
        )
    target = f"{run}_repeated"
    output_flag = _OUTPUT_FLAGS.get(first["command"][1], "--workdir")
    command, about_config = _same_config(first)
    told = [
        *_describe(run, starts),
        *_compare_source(run, first["git"]),
        *_compare_packages(first["packages"]),
        *about_config,
        *_compare_stores(first["stores"]),
    ]
    if os.path.exists(target):
        told.append(f"{target} is there already: the command goes on with it.")
    lines = [f"# {' '.join(line.split())}" for line in told]
    if first["directory"] != os.getcwd():
        lines.append(f"cd {shlex.quote(first['directory'])} &&")
    return "\n".join([*lines, quote(_with_flag(command, f"{output_flag}={target}"))])


def _describe(run: Path, starts: list[dict[str, Any]]) -> Iterator[str]:
    first = starts[0]
    version, devices = first["packages"].get("fmrifm", "?"), first["devices"]
    yield f"{run} began at {first['time']} with fmrifm {version} and Python {first['python']}"
    yield f"on {devices['count']} x {devices['kind']} ({devices['platform']})."
    if devices["processes"] > 1:
        yield f"This is the command of the first of {devices['processes']} processes."
    if len(starts) > 1:
        configs = [flatten(start["config"]) for start in starts]
        changed = {field for config in configs for field in _differences(configs[0], config)}
        commits = {start["git"]["commit"] for start in starts if start["git"]}
        changes = [*sorted(changed), *(["the commit"] if len(commits) > 1 else [])]
        yield f"This is the first of {len(starts)} starts."
        yield f"Changes between them: {', '.join(changes) or 'none'}."


def _compare_source(run: Path, then: Mapping[str, Any] | None) -> Iterator[str]:
    if then is None:
        yield "The source was no git checkout."
        return
    now, diff = source_state()
    same = now is not None and now["commit"] == then["commit"]
    yield f"The source was commit {then['commit']}{', as now.' if same else ':'}"
    if not same:
        yield f"git checkout {then['commit']}"
    kept = run / then["diff"] if then["diff"] else None
    if then["dirty"] and kept is None:
        yield f"Files differed from it: {then['diff_bytes']:,} bytes, too many to be kept."
    elif then["dirty"] and not (same and kept.is_file() and kept.read_bytes() == diff):
        yield "Files differed from it:"
        yield f"git apply {shlex.quote(str(kept))}"
    elif same and now["dirty"] and not then["dirty"]:
        yield "Files differ from it now, and did not then."


def _compare_packages(then: Mapping[str, str]) -> Iterator[str]:
    now = package_versions()
    changed = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    told = (f"{x} {then.get(x, 'absent')} (now {now.get(x, 'absent')})" for x in changed)
    yield f"Packages: {', '.join(told)}." if changed else "Packages: the same versions as now."


def _compare_stores(then: Mapping[str, str]) -> Iterator[str]:
    intact = 0
    for path, digest in then.items():
        try:
            if store_digest(Store(path)).startswith(digest):
                intact += 1
            else:
                yield f"The store {path} has other contents now."
        except (InputError, OSError) as error:
            yield f"The store {path} cannot be opened now: {error}"
    yield f"Stores with the same contents as then: {intact} of {len(then)}."


def _same_config(start: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The command with flags that make its config today that of the start; and what to say."""
    command = start["command"]
    if command[1] in _OUTPUT_FLAGS:  # it has no config
        return command, []
    try:
        with contextlib.chdir(start["directory"]):
            now = flatten(config_dict(read_config(command)))
    except Exception as error:  # a config file may do anything
        return command, [f"The config cannot be read now: {error}"]
    then = flatten(start["config"])
    if then.get("run") in ("last", "every"):
        # A probe of a checkpoint of a run, which it names; its cache belongs to all of them.
        then |= {"run": "last", "cache_dir": now.get("cache_dir")}
    told = []
    for field in _differences(then, now):
        if field not in now:
            told.append(f"The config has no {field} any more, which was {then[field]!r}.")
        elif field not in then:
            told.append(f"The config has a new field {field}, which is {now[field]!r}.")
        else:
            change = f"{field} was {then[field]!r}, and the command alone makes it {now[field]!r}"
            try:
                flag = flag_of(field, then[field])
            except InputError:
                told.append(f"{change}: no flag can say what it was.")
            else:
                command = _with_flag(command, flag, isinstance(then[field], bool))
                told.append(f"{change}: set here to what it was.")
    return command, told or ["The config of the command is the same as then."]


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The fields that differ; lists of words may be given as one text."""

    def plain(value: Any) -> Any:
        if isinstance(value, list) and value and all(isinstance(x, str) for x in value):
            return [word.strip() for text in value for word in text.split(",")]
        return value

    names = dict.fromkeys([*then, *now])
    return [x for x in names if x not in then or x not in now or plain(then[x]) != plain(now[x])]


def _with_flag(arguments: Sequence[str], new: str, is_bool: bool = False) -> list[str]:
    """The arguments with a flag, --NAME=VALUE, in the place of those of the same name."""
    name = new.partition("=")[0].removeprefix("--")
    kept, place, rest = [], None, iter(arguments)
    for argument in rest:
        flag, equals, _ = argument.partition("=")
        if flag not in {dashes + x for dashes in ("-", "--") for x in (name, f"no{name}")}:
            kept.append(argument)
            continue
        place = len(kept) if place is None else place
        if not equals and not is_bool:
            next(rest, None)  # the value is the next word
    kept.insert(len(kept) if place is None else place, new)
    return kept
