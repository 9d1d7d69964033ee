"""All commands under one name: `fmrifm NAME ...` does what `python -m fmrifm.NAME ...` does.

fmrifm pretrain --config=pretrain:vit_b --workdir=DIR --config.data.train=STORE
fmrifm data convert --input=PATH --output=STORE
"""

import ast
import difflib
import importlib.util
import runpy
import sys
from pathlib import Path

from data_tools.errors import kind_errors

COMMANDS = (
    *("quickstart", "pretrain", "probe", "embed", "config", "plan", "sweep", "table", "scaling"),
    "port",
)
DATA_COMMANDS = (
    *("convert", "convert_hcp", "convert_nsd", "convert_ukbb", "import_webdataset"),
    *("import_arrow", "export_webdataset", "inspect", "merge", "split", "overlap", "simulate"),
    *("make_geometry", "nsd_volume"),
)
_MODULES = {"config": "fmrifm.show_config"}  # `config` alone would be taken for that of runs


def main() -> None:
    """Runs the command that is named; see the module's docstring."""
    names = sys.argv[1:]
    package = "data_tools" if names[:1] == ["data"] else "fmrifm"
    names = names[1:] if package == "data_tools" else names
    commands = DATA_COMMANDS if package == "data_tools" else COMMANDS
    if not names or names[0] in ("-h", "--help", "help"):
        with kind_errors():
            print(describe_commands(), flush=True)
        return
    if names[0] not in commands:
        close = difflib.get_close_matches(names[0], commands, 1)
        hint = f"did you mean '{close[0]}'?" if close else "`fmrifm --help` lists them."
        print(f"error: There is no command '{names[0]}': {hint}", file=sys.stderr)
        raise SystemExit(2)
    module = _MODULES.get(names[0], f"{package}.{names[0]}")
    sys.argv = [f"{package} {names[0]}", *names[1:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def describe_commands() -> str:
    """One line for each command."""
    lines = ["usage: fmrifm NAME ...", "       fmrifm data NAME ...", ""]
    for title, prefix, commands in (
        ("Models", "fmrifm", COMMANDS),
        ("Data", "data_tools", DATA_COMMANDS),
    ):
        lines.append(f"{title}:")
        name_of = "data " if prefix == "data_tools" else ""
        for name in commands:
            summary = first_line(_MODULES.get(name, f"{prefix}.{name}"))
            lines.append(f"  {name_of + name:24}{summary}")
        lines.append("")
    return "\n".join([*lines, "`fmrifm NAME --help` shows the flags of a command."])


def first_line(module: str) -> str:
    """The first line of a module's docstring; the module is read and not imported."""
    path = Path(importlib.util.find_spec(module).origin)
    if path.name == "__init__.py":
        path = path.with_name("__main__.py")
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
