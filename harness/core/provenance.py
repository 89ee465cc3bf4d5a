"""Where a number comes from: the commit, the packages and the machine."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
_CODE = ["harness", "studies", ":(exclude)studies/README.md", "pyproject.toml", "requirements.lock"]
_PACKAGES = ["torch", "torchvision", "torch-fidelity", "numpy", "optuna", "mlflow"]


@functools.cache
def commit() -> str:
    """Return the checkout's commit, 12 hex digits, with `-dirty` if code is changed; "unknown" outside a checkout."""
    head = _git("rev-parse", "--short=12", "HEAD")
    return head + ("-dirty" if _git("status", "--porcelain", "--", *_CODE) else "") if head else "unknown"


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
