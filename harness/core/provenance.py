"""Where a number comes from: the code, the packages and the machine."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout, or the folder into which the package is installed."""
DISTRIBUTION = "flow-ablation"
"""The name under which `pip` knows this package."""
_CODE = ["harness", "studies", ":(exclude)studies/README.md", "pyproject.toml", "requirements.lock"]
_PACKAGES = ["torch", "torchvision", "torch-fidelity", "numpy", "optuna", "mlflow"]


@functools.cache
def commit() -> str:
    """Return the checkout's commit, 12 hex digits, with `-dirty` if code is changed.

    Outside a checkout: the commit from which pip installed the code, else the installed version.
    """
    # a repository around an environment does not track the code that is installed there
    tracked = _git("ls-files", "--", str(Path(__file__).relative_to(ROOT)))
    if tracked and (head := _git("rev-parse", "--short=12", "HEAD")):
        return head + ("-dirty" if _git("status", "--porcelain", "--", *_CODE) else "")
    try:
        installed = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
    source = json.loads(installed.read_text("direct_url.json") or "{}")  # PEP 610; a package index gives no such file
    if made := source.get("vcs_info", {}).get("commit_id"):
        return str(made)[:12]
    editable = source.get("dir_info", {}).get("editable")
    return f"{DISTRIBUTION} {installed.version}{' (editable)' if editable else ''}"


def is_commit(state: str) -> bool:
    """Whether a state of the code, as `commit` returns it, is a commit and no installed version."""
    return not state.startswith(DISTRIBUTION)


def named(states: Sequence[str], joint: str = ", ") -> str:
    """Return states of the code, as `commit` returns them, for a sentence: "commit a, b" or "flow-ablation 0.1.0"."""
    told = joint.join(states) or "none"
    return f"commit {told}" if is_commit(told) else told


def version() -> str:
    """Return the installed version; "unknown" if the code runs without an installation."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@functools.cache
def machine() -> dict[str, str | int]:
    """Return processor, cores, accelerator, operating system and package versions."""
    import torch

    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n")
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
