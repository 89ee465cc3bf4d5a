"""`harness doctor`: checks whether this machine has what the harness needs, and says how to fix each fault."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import platform
import shutil
import socket
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import torch
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from rich.console import Console
from rich.table import Table

from harness.ablation.design.folder import scales_file, studies_folder
from harness.ablation.design.study import load_scales
from harness.core.errors import UserError, redacted
from harness.core.files import locked, results_folder
from harness.core.memory import free_bytes, size
from harness.core.progress import terminal
from harness.core.provenance import DISTRIBUTION, ROOT
from harness.data.base import data_folder
from harness.evaluation.extractors import InceptionExtractor
from harness.runs import stored
from harness.runs.mlflow_store import default_uri, sqlite_path
from harness.runs.threads import usable_cores

PYTHON = (3, 11)
WRITTEN = 32 * 2**20
"""Bytes that are written to time the disk."""
SLOW = 20e6
"""Bytes a second; a slower disk delays training at each checkpoint."""
LITTLE = 2 * 2**30
"""Bytes; a disk with less free space is soon full."""
PATIENCE_S = 2.0
"""Seconds that a server may take to answer."""


class Finding(NamedTuple):
    """The result of one check."""

    what: str
    found: str
    advice: str = ""
    """What to do; empty if all is well."""
    hinders: bool = False
    """Whether it prevents training or storing runs."""


def run(options: argparse.Namespace) -> int:
    """Print all findings; return 1 if one prevents training, else 0."""
    return findings_told([finding for look in LOOKS for finding in look()], terminal(), "training")


def findings_told(findings: Sequence[Finding], console: Console, purpose: str) -> int:
    """Print findings as a table, and which of them prevent the purpose; return 1 if one does, else 0."""
    table = Table(show_lines=True)
    table.add_column("", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("result, and what to do", overflow="fold")
    for one in findings:
        mark = "fail" if one.hinders else "warn" if one.advice else "ok"
        table.add_row(mark, one.what, f"{one.found}\n{one.advice}" if one.advice else one.found)
    console.print(table)
    hindering = [one.what for one in findings if one.hinders]
    console.print(f"prevents {purpose}: {', '.join(hindering)}" if hindering else f"nothing prevents {purpose}")
    return 1 if hindering else 0


def _python() -> Iterator[Finding]:
    old = sys.version_info < PYTHON
    again = "run `make -B .venv/ready PYTHON=python3.11`" if _checkout() else "install this package with it"
    advice = f"Install Python 3.11 or newer, then {again}." if old else ""
    yield Finding("Python", f"{platform.python_version()} in {sys.prefix}", advice, old)


def _torch() -> Iterator[Finding]:
    about = f"{torch.__version__}, {usable_cores()} of {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    yield Finding("torch", f"{about}, {size(free_bytes('cpu'))} of memory free")


def _gpu() -> Iterator[Finding]:
    """A GPU that refuses work prevents training; a machine without a GPU trains on the CPU."""
    if not torch.cuda.is_available():
        unused = shutil.which("nvidia-smi") and Path("/proc/driver/nvidia").exists()
        advice = f"torch {torch.__version__} does not see the GPU. Install its build for CUDA, or a newer driver."
        yield Finding("GPU", "none: runs train in fp32 on the CPU", advice if unused else "")
        return
    try:
        (torch.ones(64, 64, device="cuda") @ torch.ones(64, 64, device="cuda")).sum().item()
    except RuntimeError as error:
        said = str(error).partition("\n")[0]
        advice = "Repair the GPU or its driver, or set train.device=cpu."
        yield Finding("GPU", f"{torch.cuda.get_device_name()}: {said}", advice, True)
        return
    kinds = {"bf16": torch.cuda.is_bf16_supported(), "tf32": torch.cuda.get_device_capability() >= (8, 0)}
    precision = ", ".join(["fp32", *(name for name, there in kinds.items() if there)])
    advice = "" if kinds["bf16"] else "Set train.precision=fp32: auto means bf16 on a GPU."
    number = f"{torch.cuda.device_count()} x " if torch.cuda.device_count() > 1 else ""
    yield Finding("GPU", f"{number}{torch.cuda.get_device_name()}; {precision}", advice)


def _results() -> Iterator[Finding]:
    """Check whether runs can be written and locked, and how fast."""
    place = results_folder()
    there = next(folder for folder in (place, *place.parents) if folder.is_dir())
    elsewhere = "Set HARNESS_RESULTS to another folder."
    try:
        with tempfile.TemporaryDirectory(dir=there) as folder:
            with locked(Path(folder) / "lock", wait=False) as free:
                assert free
            started = time.perf_counter()
            with open(Path(folder) / "bytes", "wb") as file:
                file.write(os.urandom(WRITTEN))
                file.flush()
                os.fsync(file.fileno())
            rate = WRITTEN / (time.perf_counter() - started)
    except UserError:
        yield Finding("results", f"{place}: its file system has no file locks", elsewhere, True)
        return
    except OSError as error:
        yield Finding("results", f"{place}: {error.strerror}", f"Make it writable. {elsewhere}", True)
        return
    left = shutil.disk_usage(there).free
    slow = f"The disk is slow: each checkpoint delays training. {elsewhere}" if rate < SLOW else ""
    full = f"Free some space. {elsewhere}" if left < LITTLE else ""
    yield Finding(
        "results", f"{place}: {size(left)} free, writes {size(rate)} a second", " ".join(filter(None, [slow, full]))
    )
    yield Finding("runs", f"{len(stored.folders())} on disk; `harness runs` lists them")


def _store() -> Iterator[Finding]:
    """Check MLflow's store: a SQLite file must be writable, a server must answer."""
    try:
        uri = default_uri()
        if uri.startswith("sqlite"):
            _write_sqlite(sqlite_path(uri))
        elif uri.startswith("http"):
            _require_answer(uri)
    except (UserError, OSError, sqlite3.Error) as error:
        locked = getattr(error, "sqlite_errorname", "") == "SQLITE_BUSY"
        advice = "Its records wait until then." if locked else "Fix this, or set MLFLOW_TRACKING_URI."
        place = redacted(os.environ.get("MLFLOW_TRACKING_URI", "its SQLite file"))
        yield Finding("MLflow", f"{place}: {error}", advice, not locked)
        return
    yield Finding("MLflow", redacted(uri))


def _write_sqlite(path: Path) -> None:
    """Raise SQLite's error if it cannot write to the file, or to a missing file's folder; change nothing."""
    if path.exists():
        with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE_S)) as store:
            store.execute("BEGIN IMMEDIATE")
            store.rollback()
        return
    there = next(folder for folder in path.absolute().parents if folder.is_dir())
    with (
        tempfile.TemporaryDirectory(dir=there) as folder,
        contextlib.closing(sqlite3.connect(Path(folder) / "try.db")) as store,
    ):
        store.execute("CREATE TABLE one (a)")


def _require_answer(uri: str) -> None:
    """`OSError` if no server listens at the address."""
    parts = urlsplit(uri)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    socket.create_connection((str(parts.hostname), port), timeout=PATIENCE_S).close()


def _data() -> Iterator[Finding]:
    """List the data folder, and look for the Inception weights."""
    place = data_folder().absolute()
    if place.is_dir():
        names = sorted(path.name for path in place.iterdir() if not path.name.startswith("."))
        held = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        yield Finding("data", f"{place}: {held or 'empty'}; digits and points need no files")
    else:
        wrong = "HARNESS_DATA" in os.environ
        advice = "Set HARNESS_DATA to a folder, or unset it." if wrong else ""
        yield Finding("data", f"{place}: no such folder; digits and points need no files", advice, wrong)
    weights = InceptionExtractor().place()
    advice = "FID of images needs them. Set HARNESS_INCEPTION to a copy, or let the first evaluation download them."
    here = weights.is_file()
    yield Finding("Inception", f"{weights}: {'found' if here else 'no such file'}", "" if here else advice)


def _studies() -> Iterator[Finding]:
    try:
        folder = studies_folder()
        yield Finding("studies", f"{folder}: {len(load_scales())} scales")
    except (UserError, AttributeError) as error:
        advice = "" if "HARNESS_STUDIES" in str(error) else f"Mend {scales_file()}."
        yield Finding("studies", str(error), advice, True)


def _versions() -> Iterator[Finding]:
    """Compare the installed packages with the requirements and, in a checkout, with requirements.lock."""
    lock = ROOT / "requirements.lock"
    try:
        needed = [Requirement(text) for text in importlib.metadata.requires(DISTRIBUTION) or []]
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", f"{DISTRIBUTION} is not installed", _install(), True)
        return
    asked = {canonicalize_name(each.name): each for each in needed if not each.marker or each.marker.evaluate()}
    locked_at = _locked(lock)
    missing: list[str] = []
    outside: list[str] = []
    other: list[str] = []
    for name, requirement in asked.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            outside.append(f"{name} {version} (needs {requirement.specifier})")
        elif locked_at.get(name, version) != version.partition("+")[0]:
            other.append(f"{name} {version} (lock: {locked_at[name]})")
    wrong = [f"missing: {', '.join(missing)}"] * bool(missing) + outside
    if wrong:
        yield Finding("packages", "; ".join(wrong), _install(), True)
    elif other:
        advice = "Values may differ in the last digits. `make -B .venv/ready` installs the locked versions."
        yield Finding("packages", "; ".join(other), advice)
    else:
        which = f"the versions of {lock.name}" if locked_at else "versions that the package allows"
        yield Finding("packages", f"{len(asked)} in {which}")


def _checkout() -> bool:
    """Whether the code runs from a checkout, which has a Makefile."""
    return (ROOT / "Makefile").is_file()


def _install() -> str:
    """Return the advice that installs this package with all that it requires."""
    command = "`make -B .venv/ready` or `pip install -e .`" if _checkout() else f"`pip install {DISTRIBUTION}`"
    return f"Install what is needed with {command}."


def _locked(lock: Path) -> dict[str, str]:
    """Return {package: version} of a lock for this machine; empty without a lock."""
    found: dict[str, str] = {}
    for line in lock.read_text().splitlines() if lock.is_file() else ():
        with contextlib.suppress(InvalidRequirement):
            each = Requirement(line)
            if not each.marker or each.marker.evaluate():
                found[canonicalize_name(each.name)] = str(each.specifier).removeprefix("==")
    return found


LOOKS = (_python, _torch, _gpu, _versions, _results, _store, _data, _studies)
