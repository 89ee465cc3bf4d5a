"""Which module may import which, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "harness").rglob("*.py"))}
SOLE_IMPORTERS = {
    "mlflow": "harness/tracking.py",
    "optuna": "harness/ablation/worker.py",
    "torch_fidelity": "harness/evaluation/fidelity.py",
}


def imports(path: Path) -> set[str]:
    """Dotted names of all that a file imports, inside functions too; `from a import b` counts as a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def reaches(path: Path, *packages: str) -> set[str]:
    """What a file imports of `packages`."""
    return {name for name in imports(path) if any(name == package or name.startswith(f"{package}.") for package in packages)}


def test_the_scan_finds_what_is_there() -> None:
    assert reaches(MODULES["harness/tracking.py"], "mlflow")
    assert reaches(MODULES["harness/objective.py"], "harness.components")
    assert len(MODULES) > 25


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_arrows(module: str) -> None:
    path = MODULES[module]
    assert not reaches(path, "studies")
    for package, owner in SOLE_IMPORTERS.items():
        assert module == owner or not reaches(path, package)
    if module.startswith("harness/components/"):
        assert not reaches(path, "harness.training", "harness.evaluation", "harness.ablation", "harness.runs", "harness.tracking")


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_long(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= 400


def test_the_command_line_starts_light() -> None:
    code = "import sys, harness.cli; print(*sorted({'torch', 'mlflow', 'optuna', 'torch_fidelity', 'pandas'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
