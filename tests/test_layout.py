"""Rules of the layout and of style that a machine can check."""

import ast
import graphlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each package or file may import itself and those above it in this list, never those below.
ORDER = (
    *("data_tools.safe_text", "data_tools.errors", "data_tools.wording"),
    *("data_tools.flags", "data_tools.parallel"),
    *("data_tools.files", "data_tools.reports", "data_tools.readers"),
    *("data_tools.spaces", "data_tools.store", "data_tools.timeseries"),
    *("data_tools.nsd_volume", "data_tools.overlap", "data_tools.simulate", "data_tools.inspect"),
    *("data_tools.convert", "data_tools.published"),
    *("data_tools.convert_hcp", "data_tools.convert_nsd", "data_tools.convert_ukbb"),
    *("data_tools.import_webdataset", "data_tools.import_arrow", "data_tools.export_webdataset"),
    *("data_tools.make_geometry", "data_tools.merge", "data_tools.split"),
    *(
        "fmrifm.compile_cache",
        "fmrifm.processes",
        "fmrifm.command_line",
        "fmrifm.input",
        "fmrifm.model",
    ),
    *("fmrifm.published", "fmrifm.runs", "fmrifm.trainer"),
    *("fmrifm.probe", "fmrifm.plan", "fmrifm.table", "fmrifm.scaling", "fmrifm.embed"),
    *("configs", "fmrifm.sweep", "fmrifm.sweeps"),
    *("fmrifm.port", "fmrifm.pretrain", "fmrifm.quickstart"),
    *("fmrifm.show_config", "fmrifm.__main__"),
)
# Only the interface for Python users stands above all packages of fmrifm and is imported by them.
INTERFACES = {"fmrifm", "data_tools"}
# Configs build on the generators of sweeps; these commands read a config that another one names.
EXCEPTIONS = {("configs", "fmrifm.sweep")}
COMMANDS_READING_CONFIGS = {"fmrifm.pretrain", "fmrifm.sweep.__main__"}
MOST_ENTRIES = 15


def modules() -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    files = [
        file for top in ("data_tools", "fmrifm", "configs") for file in ROOT.glob(f"{top}/**/*.py")
    ]
    names = {file: ".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files}
    return {name.removesuffix(".__init__"): file for file, name in names.items()}


MODULES = modules()


def place(module: str) -> str:
    """The entry of ORDER, or the interface, that a module belongs to."""
    if module in INTERFACES:
        return module
    parts = module.split(".")
    return parts[0] if parts[0] == "configs" else ".".join(parts[:2])


def imports(module: str) -> set[str]:
    """The modules of ours that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import: write the whole name."
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in MODULES}


def test_every_package_has_its_place():
    assert {place(module) for module in MODULES} - INTERFACES == set(ORDER)


@pytest.mark.parametrize("entry", ORDER)
def test_imports_go_one_way(entry):
    allowed = {*ORDER[: ORDER.index(entry) + 1], *INTERFACES}
    for module in MODULES:
        if place(module) != entry:
            continue
        for other in imports(module):
            fine = place(other) in allowed or (entry, place(other)) in EXCEPTIONS
            assert fine, f"{module} imports {other}, which stands below it in ORDER"


def test_data_tools_import_nothing_of_fmrifm_and_only_commands_read_configs():
    for module in MODULES:
        tops = {name.split(".")[0] for name in imports(module)}
        if module.startswith("data_tools"):
            assert tops <= {"data_tools"}, module
        if "configs" in tops:
            assert module.startswith("configs") or module in COMMANDS_READING_CONFIGS, module


def test_no_module_imports_itself_by_way_of_others():
    graphlib.TopologicalSorter({name: imports(name) - INTERFACES for name in MODULES}).prepare()


def test_folders_are_small_and_names_are_unique():
    commands = {
        name for name, file in MODULES.items() if '__name__ == "__main__"' in file.read_text()
    }
    for folder in {file.parent for file in MODULES.values()}:
        inside = [
            path for path in folder.iterdir() if path.name not in ("__init__.py", "__pycache__")
        ]
        names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in inside}
        counted = [
            path for path, name in names.items() if not {name, f"{name}.__main__"} & commands
        ]
        assert len(counted) <= MOST_ENTRIES, folder
    library = [file for name, file in MODULES.items() if not name.startswith("configs")]
    twice = [name for name, n in Counter(file.name for file in library).items() if n > 1]
    assert set(twice) <= {"__init__.py", "__main__.py"}
    assert not {"utils.py", "util.py", "misc.py", "helpers.py", "common.py"} & {
        f.name for f in library
    }


def test_tests_mirror_the_packages():
    """A folder of tests has the name of a package; a test file there is about that package."""
    folders = {file.parent.relative_to(ROOT / "tests") for file in ROOT.glob("tests/**/test_*.py")}
    packages = {file.parent.relative_to(ROOT) for file in MODULES.values()}
    # The harnesses of reliability are about all packages.
    for folder in folders - {Path("."), Path("reliability")}:
        assert folder in packages or Path("fmrifm") / folder in packages, folder


def test_the_ground_needs_no_jax():
    code = (
        "import sys, pkgutil, importlib, data_tools\n"
        "for m in pkgutil.walk_packages(data_tools.__path__, 'data_tools.'):\n"
        "    importlib.import_module(m.name)\n"
        "assert not {'jax', 'flax', 'fmrifm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_style():
    for arguments in (["check"], ["format", "--check"]):
        subprocess.run([sys.executable, "-m", "ruff", *arguments, "."], check=True, cwd=ROOT)


def test_package_data_are_installed_with_us():
    from data_tools.spaces.standard_maps import standard_cortex

    left, right = standard_cortex("fsaverage5")
    assert (~left).sum() == 888 and (~right).sum() == 881
    assert [side.sum() for side in standard_cortex("fsLR-32k")] == [29_696, 29_716]
