"""Shared by all commands: flags, their errors as one sentence, and meeting other processes."""

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags

from data_tools.errors import InputError, kind_errors
from data_tools.files.remote import is_url
from data_tools.store.checks import refuse_inside_store

WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; made if it is not there.")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One process of several, found from the cluster (TPU pod, SLURM, MPI)."
)
COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, if not found.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many, with --coordinator.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is, with --coordinator.")

COMPILE_CACHE = flags.DEFINE_bool(
    "compile_cache", True, "Keep compiled programs in ~/.cache/fmrifm/compiled, at most 4 GiB."
)

WRONG_USAGE = 2  # the exit code for flags that cannot be read, as of the data tools


def run(main: Callable[[list[str]], None], *required: str) -> None:
    """Runs a main with the flags of the command line; those in `required` must be given.

    JAX is imported after the flags are read: help and mistakes should not take seconds.
    """
    flags.mark_flags_as_required(required)

    def guarded(argv: list[str]) -> None:
        from fmrifm.compile_cache import use_compile_cache
        from fmrifm.processes import ending_together

        if COMPILE_CACHE.value:
            use_compile_cache()
        with ending_together():
            main(argv)

    app.run(guarded, flags_parser=parse_flags)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags; returns what is left, the program. Exits with one sentence on nonsense."""
    if {"-h", "--help", "--helpfull", "--helpshort"} & set(argv[1:]):
        print(describe_flags(sys.modules["__main__"]))
        raise SystemExit(0)
    with kind_errors(WRONG_USAGE):
        left = read_flags(flags.FLAGS, argv)
        if len(left) > 1:
            raise InputError(f"Unexpected arguments {' '.join(left[1:])}: write --flag=value.")
        for name in {"workdir", "output"} & set(flags.FLAGS):
            if (place := flags.FLAGS[name].value) and not is_url(place):
                refuse_inside_store(place, f"--{name}")
    return left


def read_flags(values: flags.FlagValues, argv: list[str], known_only: bool = False) -> list[str]:
    """Parses the flags that are defined in `values`.

    Args:
      argv: the program and its arguments.
      known_only: leave other flags alone.

    Returns:
      What is no flag; the program comes first.

    Raises:
      InputError: a flag, a value or a field of the config that there is not, or no such config.
    """
    try:
        left = values(list(map(_find_config_flag, argv)), known_only=known_only)
        # A config file that could not be read says so only when it is touched.
        hasattr(values["config"].value if "config" in values else None, "keys")
    except flags.Error as error:
        raise InputError(" ".join(str(error).split())) from error
    except OSError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"The config cannot be read ({reason}): check --config.") from error
    except (AttributeError, KeyError) as error:
        raise _unknown_field(error, argv) from error
    return left


def describe_flags(main) -> str:
    """The docstring of a main module and the flags that it takes."""
    ours = [flag for flag in vars(main).values() if isinstance(flag, flags.FlagHolder)]
    ours.append(COMPILE_CACHE)
    if hasattr(main, "join_processes"):
        ours += [DISTRIBUTED, COORDINATOR, NUM_PROCESSES, PROCESS_ID]
    found = {flag.name: flags.FLAGS[flag.name] for flag in ours}
    lines = [main.__doc__ or "", "flags:"]
    for name, flag in sorted(found.items()):
        default = f" (default: {flag.default})" if flag.default not in (None, False, "") else ""
        lines.append(f"  --{name}: {flag.help}{default}")
    if "config" in found:
        lines.append(
            "\n--config.FIELD=VALUE changes a field of the config. `fmrifm config FILE` shows all "
            "fields,\ntheir values and what they mean. Ready configs are found by name: "
            f"{', '.join(ready_configs())}."
        )
    return "\n".join(lines)


def ready_configs() -> list[str]:
    """Names of the configs that are installed with the package."""
    return sorted(path.stem for path in _configs().glob("*.py") if path.stem != "__init__")


def find_config(text: str) -> str:
    """FILE[:arg] for a file, or for the name of a ready config such as "pretrain:vit_b"."""
    name, colon, argument = text.partition(":")
    ready = _configs() / f"{name}.py"
    if Path(name).is_file() or name.endswith(".py") or not ready.is_file():
        return text
    return f"{ready}{colon}{argument}"


def _configs() -> Path:
    """The folder of the configs; they are not imported."""
    return Path(next(iter(importlib.util.find_spec("configs").submodule_search_locations)))


def _find_config_flag(text: str) -> str:
    flag, equals, value = text.partition("=")
    return f"{flag}={find_config(value)}" if flag in ("--config", "-config") and equals else text


def _unknown_field(error: Exception, argv: list[str]) -> Exception:
    """ml_collections' error about a field of the command line, as a sentence; else the error."""
    words = re.findall(r"['\"](\w+)['\"]", str(error).replace("\\", ""))
    name, guess = (words + [""])[0], words[1:]
    flag = next((arg for arg in argv if re.match(rf"--?\w+\.[\w.]*\b{name}\b", arg)), None)
    if not name or flag is None:
        return error  # a bug in the config file: keeps its traceback
    hint = f"did you mean '{guess[0]}'?" if guess else "see the fields in the config file."
    return InputError(f"The config has no field '{name}' ({flag}): {hint}")


def join_processes() -> None:
    """Meets the other processes if the flags say so, before anything touches a device.

    Flags that make no sense, and a cluster that cannot be found, end the program with a sentence.
    """
    if not (DISTRIBUTED.value or COORDINATOR.value):
        return
    from fmrifm.processes import meet

    with kind_errors():
        try:
            meet(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
        except (ValueError, TypeError, IndexError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise InputError(
                f"The other processes cannot be found ({reason}): start on a TPU pod, with srun or "
                "with mpirun, or give --coordinator, --num_processes and --process_id."
            ) from error
