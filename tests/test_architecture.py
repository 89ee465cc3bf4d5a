"""Which module may import which, read from the source."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODULES = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "harness").rglob("*.py"))}
SOLE_IMPORTERS: dict[str, str | tuple[str, ...]] = {
    "mlflow": "harness/runs/mlflow_",
    "optuna": "harness/ablation/",
    "torch_fidelity": tuple(f"harness/evaluation/{name}.py" for name in ("fidelity", "extractors", "vision")),
    "diffusers": ("harness/components/backbones/diffusers.py", "harness/evaluation/decoder.py"),
    "scanpy": ("harness/data/cells.py", "harness/data/counts.py"),
    "anndata": ("harness/data/cells.py", "harness/data/counts.py"),
    "datasets": "harness/data/hub.py",
    "huggingface_hub": "harness/data/hub.py",
    "statsmodels": ("harness/data/sequences.py", "harness/ablation/report/interactions.py"),
}
HEAVY = (
    "torch_fidelity", "scanpy", "anndata", "statsmodels", "sklearn", "torchvision", "torchdiffeq", "ot", "diffusers",
    "datasets", "huggingface_hub",
)  # fmt: skip
"""Packages imported only inside functions, because most commands do not need them."""


@functools.cache
def imports(path: Path) -> set[str]:
    """Return the dotted names of a file's imports, also inside functions; `from a import b` counts as a and a.b."""
    return imported(ast.walk(ast.parse(path.read_text())))


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the names in the import statements among `nodes`."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import of {node.module}"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def reaches(path: Path, *packages: str) -> set[str]:
    """Return the imports of a file that belong to `packages`."""
    return {
        name for name in imports(path) if any(name == package or name.startswith(f"{package}.") for package in packages)
    }


def test_the_scan_finds_imports() -> None:
    assert reaches(MODULES["harness/runs/mlflow_mirror.py"], "mlflow")
    assert reaches(MODULES["harness/flow/objective.py"], "harness.components")
    assert reaches(MODULES["harness/evaluation/protocol.py"], "harness.data")
    assert len(MODULES) > 25


FLOORS = ("core", "data", "components", "flow", "training", "evaluation", "runs", "ablation", "cli")
"""The rooms from the ground up: each imports only from those before it. `testing` stands beside `runs`; only `cli`
imports it.
"""
ABLATION = ("design", "execute", "report")
"""The rooms of `ablation`: `execute` uses `design`, and `report` uses both."""


def test_every_module_belongs_to_a_room() -> None:
    loose = {"harness/__init__.py", "harness/__main__.py"}
    assert {module for module in MODULES if module.split("/")[1] not in (*FLOORS, "testing")} == loose


def test_imports_lead_down() -> None:
    """Imports inside functions and for the type checker count too."""
    for module, path in MODULES.items():
        room = module.split("/")[1]
        if room in FLOORS:
            above = [f"harness.{other}" for other in FLOORS[FLOORS.index(room) + 1 :]]
            assert not reaches(path, *above, *(() if room == "cli" else ("harness.testing",))), module
        if room == "ablation" and module.count("/") == 3:
            later = ABLATION[ABLATION.index(module.split("/")[2]) + 1 :]
            assert not reaches(path, *(f"harness.ablation.{other}" for other in later)), module
        if room == "testing":
            assert not reaches(path, "harness.runs", "harness.ablation", "harness.cli"), module
        if module.startswith("harness/evaluation/"):  # training and evaluation do not import each other
            assert not reaches(path, "harness.training"), module


def test_packages_have_one_owner() -> None:
    for module, path in MODULES.items():
        assert not reaches(path, "studies"), module
        for package, owner in SOLE_IMPORTERS.items():
            assert module.startswith(owner) or not reaches(path, package), module


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    """Heavy packages are imported only inside functions or for the type checker."""
    for module, path in MODULES.items():
        at_once = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert not {name for name in imported(at_once) if name.partition(".")[0] in HEAVY}, module


def test_no_module_and_no_function_is_long() -> None:
    """Functions in harness, studies, benchmarks and tests have at most 40 lines. Test modules may be long."""
    long = [module for module, path in MODULES.items() if len(path.read_text().splitlines()) > 300]
    for file, text in python_files("harness", "studies", "benchmarks", "tests").items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 40:
                long.append(f"{file}: {node.name}")
    assert long == []


def python_files(*folders: str) -> dict[str, str]:
    """Return {path from the root: text} of all Python files in the folders."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def form(value: ast.expr) -> str:
    """Return an expression without its names and numbers; a bare name or number matches only itself."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return "a text"
    if isinstance(value, (ast.Name, ast.Attribute, ast.Constant)):
        return ast.unparse(value)
    return re.sub(r"(id|attr)='\w*'|value=[\d.]+", "", ast.dump(value))


def assigned(node: ast.Assign) -> list[ast.expr]:
    """Return the values of an assignment to several names; an empty list for a single value."""
    pairs = isinstance(node.targets[0], ast.Tuple)
    return node.value.elts if pairs and isinstance(node.value, ast.Tuple) else []


def unrelated(text: str) -> Iterator[str]:
    """Yield the assignments of several values at once whose forms differ."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assign) and len({form(value) for value in assigned(node)}) > 1:
            yield f"line {node.lineno}: {ast.unparse(node)}"


def test_values_are_assigned_at_once_where_they_are_of_one_kind() -> None:
    for line in ("rows, columns = height // p, width // p", "a, s = path.alpha(t), path.sigma(t)", "A, B = 'a', 'b c'"):
        assert not [*unrelated(line)], line
    for line in ("config, data = run.config, load(name)", "config, seed = run.config, run.seed", "N, SIZE = 2, 3"):
        assert [*unrelated(line)], line
    for path, text in python_files("harness", "studies", "benchmarks").items():
        assert [*unrelated(text)] == [], path


def test_no_line_is_over_120_columns() -> None:
    """Ruff allows longer lines that end in a comment for a tool."""
    files = python_files("harness", "studies", "benchmarks", "tests").items()
    lines = [(path, n, line) for path, text in files for n, line in enumerate(text.split("\n"), 1)]
    assert [f"{path}:{n}" for path, n, line in lines if len(line) > 120] == []


def test_every_module_has_a_docstring() -> None:
    for module, path in MODULES.items():
        said = ast.get_docstring(ast.parse(path.read_text()))
        assert said, module
        assert said.partition("\n")[0].endswith((".", ":", "?")), module


def test_the_command_line_starts_light() -> None:
    heavy = {"torch", "numpy", "mlflow", "optuna", "pandas", "matplotlib", *HEAVY}
    code = f"import sys, harness.cli; print(*sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
