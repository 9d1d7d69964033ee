"""The rules of the house that a machine can check."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {  # what a package may import of ours
    "data_tools": {"data_tools"},
    "fmrifm/input": {"data_tools", "fmrifm.input"},
    "fmrifm/model": {"data_tools", "fmrifm.model"},
    "fmrifm/published": {"data_tools", "fmrifm.model", "fmrifm.published"},
    "fmrifm/trainer": {
        *("data_tools", "fmrifm.input", "fmrifm.model", "fmrifm.published", "fmrifm.trainer")
    },
    "fmrifm/analysis": {"data_tools", "fmrifm.trainer", "fmrifm.evaluation", "fmrifm.analysis"},
    "fmrifm/planning": {
        *("data_tools", "fmrifm.input", "fmrifm.model", "fmrifm.planning", "fmrifm.trainer")
    },
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("package", FLOORS)
def test_arrows_point_down(package):
    for path in (ROOT / package).rglob("*.py"):
        for module in imports(path):
            if module.split(".")[0] in ("fmrifm", "data_tools"):
                allowed = any(module == a or module.startswith(f"{a}.") for a in FLOORS[package])
                assert allowed, f"{path.relative_to(ROOT)} imports {module}"


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
    from data_tools.standard_maps import standard_cortex

    left, right = standard_cortex("fsaverage5")
    assert (~left).sum() == 888 and (~right).sum() == 881
    assert [side.sum() for side in standard_cortex("fsLR-32k")] == [29_696, 29_716]
