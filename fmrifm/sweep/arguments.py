"""Commands as lists of arguments: what a config is overridden with, there and back again.

The arguments are those of Python: -m, the module, flags. ml_collections reads each flag by the type
of its field, and so values come back as they were, with three exceptions: None, which no flag can
say, dictionaries, whose fields are set one by one, and what is no literal within a tuple (nan).
"""

import ast
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from data_tools.errors import InputError
from fmrifm.command_line import read_flags


def command_line(
    module: str, config_file: str, workdir: str, overrides: Mapping[str, Any]
) -> list[str]:
    """The arguments that start a main with some fields of its config set.

    Args:
      module: such as "fmrifm.pretrain".
      config_file: PATH[:ARG].
      overrides: field ("optim.lr") -> value. None stands where the config file leaves None.
    """
    arguments = ["-m", module, f"--config={config_file}", f"--workdir={workdir}"]
    nones = [field for field, value in overrides.items() if value is None]
    config = read_config(arguments) if nones else None
    left_out = {field for field in nones if _value(config, field) is None}
    given = {field: value for field, value in overrides.items() if field not in left_out}
    return arguments + [flag_of(field, value) for field, value in given.items()]


def flag_of(field: str, value: Any) -> str:
    """The flag that sets a field of the config.

    Args:
      value: int, float, bool, str, or a tuple or list of these; also NumPy's.
    """
    value = _plain(value)
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, int | float):
        text = repr(value)
    elif isinstance(value, str):
        text = value
        _check_text(field, value)
    elif isinstance(value, tuple):
        text = _literal(field, value)
    elif value is None:
        raise _cannot_be_given(field, value, "leave it out, or set it in the config file")
    else:
        raise _cannot_be_given(field, value, "give a number, a text, or a tuple of these")
    return f"--config.{field}={text}"


def read_config(arguments: Sequence[str]) -> ConfigDict:
    """The config that a main gets from such arguments.

    Args:
      arguments: flags that are not of the config are skipped.
    """
    argv = ["", *arguments]
    values = flags.FlagValues()
    values.set_gnu_getopt()  # as those of mains
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    flags.mark_flag_as_required("config", values)
    # A file that is loaded under a name anew would keep what the one before it had defined.
    sys.modules.pop("config_config", None)
    read_flags(values, argv, known_only=True)
    return values["config"].value


def quote(arguments: Sequence[str]) -> str:
    """The command as one types it into a shell."""
    return shlex.join(["python", *arguments])


def _plain(value: Any) -> Any:
    """Python's own kind of a value, lists as tuples."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list):
        return tuple(map(_plain, value))
    return value


def _literal(field: str, values: tuple) -> str:
    """A tuple as TupleParser reads it."""
    # No literal says inf; but a number that is too large to be finite is one.
    words = ["1e999" if x == math.inf else "-1e999" if x == -math.inf else repr(x) for x in values]
    text = f"({', '.join(words)}{',' * (len(words) == 1)})"
    try:
        same = ast.literal_eval(text) == values
    except (ValueError, SyntaxError):
        same = False
    if not same:
        raise _cannot_be_given(field, values, "give numbers and texts only, and no nan")
    _check_text(field, text)
    return text


def _check_text(field: str, text: str) -> None:
    """Raises InputError for what no process can be given: zero bytes, halves of characters."""
    try:
        given = os.fsdecode(os.fsencode(text)) == text
    except UnicodeEncodeError:
        given = False
    if not given or "\0" in text:
        why = "it has characters that no argument of a process can have"
        raise _cannot_be_given(field, text, why)


def _cannot_be_given(field: str, value: Any, why: str) -> InputError:
    return InputError(f"{field}={value!r} cannot be given on a command line: {why}.")


def _value(config: ConfigDict, field: str) -> Any:
    try:
        return config_path.get_value(field, config)
    except (AttributeError, KeyError) as error:
        raise InputError(f"The config has no field '{field}': see those in its file.") from error
