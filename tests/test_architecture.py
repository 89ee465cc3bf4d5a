"""Which module may import which, read from the source."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODULES = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "harness").rglob("*.py"))}
SOLE_IMPORTERS = {
    "mlflow": "harness/tracking.py",
    "optuna": "harness/ablation/",
    "torch_fidelity": ("harness/evaluation/fidelity.py", "harness/evaluation/extractors.py"),
    "scanpy": ("harness/data/cells.py", "harness/data/counts.py"),
    "anndata": ("harness/data/cells.py", "harness/data/counts.py"),
    "statsmodels": "harness/data/sequences.py",
}
HEAVY = ("torch_fidelity", "scanpy", "anndata", "statsmodels", "sklearn", "torchvision", "torchdiffeq", "ot")
"""Packages that are imported where they are used, since most commands do without them."""


@functools.cache
def imports(path: Path) -> set[str]:
    """Dotted names of all that a file imports, inside functions too; `from a import b` counts as a and a.b."""
    return imported(ast.walk(ast.parse(path.read_text())))


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    """What the import statements among `nodes` name."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import of {node.module}"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def reaches(path: Path, *packages: str) -> set[str]:
    """What a file imports of `packages`."""
    return {name for name in imports(path) if any(name == package or name.startswith(f"{package}.") for package in packages)}


def test_the_scan_finds_what_is_there() -> None:
    assert reaches(MODULES["harness/tracking.py"], "mlflow")
    assert reaches(MODULES["harness/objective.py"], "harness.components")
    assert reaches(MODULES["harness/evaluation/protocol.py"], "harness.data")
    assert len(MODULES) > 25


def test_imports_follow_the_arrows() -> None:
    users = (
        "harness.training",
        "harness.ablation",
        "harness.runs.folder",
        "harness.runs.train",
        "harness.runs.mlflow_mirror",
        "harness.cli",
    )
    barred = {
        "harness/components/": ("harness.evaluation", *users),
        "harness/data/": ("harness.components", "harness.evaluation", *users),
        "harness/evaluation/": users,
    }
    for module, path in MODULES.items():
        assert not reaches(path, "studies"), module
        for package, owner in SOLE_IMPORTERS.items():
            assert module.startswith(owner) or not reaches(path, package), module
        for room, packages in barred.items():
            assert not module.startswith(room) or not reaches(path, *packages), module


def test_what_is_heavy_is_imported_where_it_is_used() -> None:
    """Not with the module: only within a function, or for the type checker."""
    for module, path in MODULES.items():
        at_once = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert not {name for name in imported(at_once) if name.partition(".")[0] in HEAVY}, module


def test_no_module_is_long() -> None:
    assert [module for module, path in MODULES.items() if len(path.read_text().splitlines()) > 400] == []


def test_the_command_line_starts_light() -> None:
    heavy = {"torch", "numpy", "mlflow", "optuna", "pandas", "matplotlib", *HEAVY}
    code = f"import sys, harness.cli; print(*sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
