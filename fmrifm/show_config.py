"""Prints a config as a run would use it, with the meaning of every field.

    fmrifm config pretrain:vit_b --optim.base_lr=1e-3

Fields that the command line changes are marked with their default value.
"""

import re
import sys
from pathlib import Path

from data_tools.errors import InputError, kind_errors
from fmrifm.command_line import find_config
from fmrifm.runs.config import flatten
from fmrifm.sweep.arguments import read_config

_FIELD = re.compile(r"^ *config\.([\w.]+) = .*?  # (.+)$", re.MULTILINE)


def show_config(file: str, overrides: list[str]) -> str:
    """A line for each field of a config: name, value, and the comment in the config file.

    Args:
      file: FILE[:arg], or the name of a ready config.
      overrides: --FIELD=VALUE each, or --config.FIELD=VALUE.

    Raises:
      InputError: there is no such config or field.
    """
    given = [re.sub(r"^--?(config\.)?", "--config.", text) for text in overrides]
    values, defaults = (
        flatten(read_config([f"--config={file}", *flags]).to_dict()) for flags in (given, [])
    )
    # Configs build on each other: a field may be set, and explained, in another file.
    modules = [module for name, module in sys.modules.items() if name.startswith("configs.")]
    files = [Path(find_config(file).partition(":")[0])]
    files += [Path(module.__file__) for module in modules if module.__file__]
    comments: dict[str, str] = {}
    for name, comment in (found for file in files for found in _FIELD.findall(file.read_text())):
        comments.setdefault(name, comment)
    lines = []
    for name, value in values.items():
        comment = comments.get(name, "")
        if value != defaults[name]:
            comment = f"[changed from {defaults[name]!r}] {comment}"
        lines.append(f"{name + ' = ' + repr(value):48}  # {comment}".rstrip(" #"))
    return "\n".join(lines)


def main() -> None:
    if not sys.argv[1:] or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return
    with kind_errors():
        if sys.argv[1].startswith("-"):
            raise InputError("Give a config first: fmrifm config pretrain:vit_b.")
        print(show_config(sys.argv[1], sys.argv[2:]))


if __name__ == "__main__":
    main()
