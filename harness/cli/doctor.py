"""`harness doctor`: whether this machine has what the harness needs, and what to do about what it lacks."""

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
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import torch
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from rich.table import Table

from harness.ablation.design.folder import studies_folder
from harness.ablation.design.study import load_scales
from harness.core.errors import UserError, redacted
from harness.core.files import locked, results_folder
from harness.core.memory import free_bytes, size
from harness.core.progress import terminal
from harness.core.provenance import ROOT
from harness.data.base import data_folder
from harness.evaluation.extractors import InceptionExtractor
from harness.runs import stored
from harness.runs.mlflow_store import default_uri, sqlite_path

PYTHON = (3, 11)
WRITTEN = 32 * 2**20
"""Bytes whose way to the disk is timed."""
SLOW = 20e6
"""Bytes a second below which a disk holds training up at each checkpoint."""
LITTLE = 2 * 2**30
"""Bytes free below which a disk is full soon."""
PATIENCE_S = 2.0
"""How long a server may take to answer."""


class Finding(NamedTuple):
    """What was looked at."""

    what: str
    found: str
    advice: str = ""
    """What to do; empty where all is well."""
    hinders: bool = False
    """Whether runs cannot be trained and kept as it is."""


def run(options: argparse.Namespace) -> int:
    """Print all findings; 1 where something hinders, else 0."""
    findings = [finding for look in LOOKS for finding in look()]
    table = Table(show_lines=True)
    table.add_column("", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("found, and what to do", overflow="fold")
    for one in findings:
        mark = "no" if one.hinders else "!" if one.advice else "ok"
        table.add_row(mark, one.what, f"{one.found}\n{one.advice}" if one.advice else one.found)
    console = terminal()
    console.print(table)
    hindering = [one.what for one in findings if one.hinders]
    console.print(f"hinders: {', '.join(hindering)}" if hindering else "nothing hinders")
    return 1 if hindering else 0


def _python() -> Iterator[Finding]:
    old = sys.version_info < PYTHON
    advice = "Install Python 3.11 or newer, then `make PYTHON=python3.11`." if old else ""
    yield Finding("Python", f"{platform.python_version()} in {sys.prefix}", advice, old)


def _torch() -> Iterator[Finding]:
    about = f"{torch.__version__}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    yield Finding("torch", f"{about}, {size(free_bytes('cpu'))} of memory free")


def _gpu() -> Iterator[Finding]:
    """A GPU that is there and takes no work hinders; none does not."""
    if not torch.cuda.is_available():
        unused = shutil.which("nvidia-smi") and Path("/proc/driver/nvidia").exists()
        advice = f"torch {torch.__version__} does not see the GPU. Install its build for CUDA, or a newer driver."
        yield Finding("GPU", "none: training is in fp32 on the CPU", advice if unused else "")
        return
    try:
        (torch.ones(64, 64, device="cuda") @ torch.ones(64, 64, device="cuda")).sum().item()
    except RuntimeError as error:
        said = str(error).partition("\n")[0]
        yield Finding("GPU", f"{torch.cuda.get_device_name()}: {said}", "Set train.device=cpu, or mend it.", True)
        return
    kinds = {"bf16": torch.cuda.is_bf16_supported(), "tf32": torch.cuda.get_device_capability() >= (8, 0)}
    precision = ", ".join(["fp32", *(name for name, there in kinds.items() if there)])
    advice = "" if kinds["bf16"] else "Set train.precision=fp32: auto is bf16 on a GPU."
    number = f"{torch.cuda.device_count()} x " if torch.cuda.device_count() > 1 else ""
    yield Finding("GPU", f"{number}{torch.cuda.get_device_name()}; {precision}", advice)


def _results() -> Iterator[Finding]:
    """Whether runs can be written, locked, and how fast."""
    place = results_folder()
    there = next(folder for folder in (place, *place.parents) if folder.is_dir())
    elsewhere = "Choose another folder by HARNESS_RESULTS."
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
    except OSError as error:
        yield Finding("results", f"{place}: {error.strerror}", f"Make it writable. {elsewhere}", True)
        return
    left = shutil.disk_usage(there).free
    slow = f"It is slow: checkpoints will hold training up. {elsewhere}" if rate < SLOW else ""
    full = f"Make room. {elsewhere}" if left < LITTLE else ""
    yield Finding("results", f"{place}: {size(left)} free, {size(rate)} a second", " ".join(filter(None, [slow, full])))
    yield Finding("runs", f"{len(stored.folders())} have begun; `harness runs` lists them")


def _store() -> Iterator[Finding]:
    """MLflow's: a SQLite file that can be locked and written, or a server that answers."""
    try:
        uri = default_uri()
        if uri.startswith("sqlite"):
            _write_sqlite(sqlite_path(uri))
        elif uri.startswith("http"):
            _require_answer(uri)
    except (UserError, OSError, sqlite3.Error) as error:
        advice = "Runs are kept without it. Mend it, or set MLFLOW_TRACKING_URI."
        yield Finding(
            "MLflow", f"{redacted(os.environ.get('MLFLOW_TRACKING_URI', 'its SQLite file'))}: {error}", advice
        )
        return
    yield Finding("MLflow", redacted(uri))


def _write_sqlite(path: Path) -> None:
    """Raise what keeps SQLite from writing to a file, or beside where it will be; the file stays as it is."""
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
    """`OSError` where no server listens at an address."""
    parts = urlsplit(uri)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    socket.create_connection((str(parts.hostname), port), timeout=PATIENCE_S).close()


def _data() -> Iterator[Finding]:
    """What lies in the data folder; scikit-learn's digits need none."""
    place = data_folder().absolute()
    if place.is_dir():
        names = sorted(path.name for path in place.iterdir() if not path.name.startswith("."))
        held = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        yield Finding("data", f"{place}: {held or 'empty'}; digits and points need no files")
    else:
        wrong = "HARNESS_DATA" in os.environ
        advice = "Name a folder in HARNESS_DATA, or unset it." if wrong else ""
        yield Finding("data", f"{place}: no such folder; digits and points need no files", advice, wrong)
    weights = InceptionExtractor().place()
    advice = "FID of images needs them: name a copy in HARNESS_INCEPTION, or let the first evaluation fetch them."
    here = weights.is_file()
    yield Finding("Inception", f"{weights}: {'found' if here else 'no such file'}", "" if here else advice)


def _studies() -> Iterator[Finding]:
    try:
        number = len(load_scales())
    except (UserError, AttributeError) as error:
        advice = "Name a folder with scales.py in HARNESS_STUDIES, or unset it."
        yield Finding("studies", str(error), advice, True)
        return
    yield Finding("studies", f"{studies_folder()}: {number} scales")


def _versions() -> Iterator[Finding]:
    """The packages that the harness asks for, beside what requirements.lock has."""
    lock = ROOT / "requirements.lock"
    needed = [Requirement(text) for text in importlib.metadata.requires("harness") or []]
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
        yield Finding("packages", "; ".join(wrong), "Install them: `make`, or `pip install -e .`", True)
    elif other:
        yield Finding("packages", "; ".join(other), "Values may differ in the last digits. `make` installs the lock's.")
    else:
        yield Finding(
            "packages", f"{len(asked)} as {lock.name} has them" if locked_at else f"{len(asked)}; no lock here"
        )


def _locked(lock: Path) -> dict[str, str]:
    """{package: version} that a lock has for this machine; empty without one."""
    found: dict[str, str] = {}
    for line in lock.read_text().splitlines() if lock.is_file() else ():
        with contextlib.suppress(InvalidRequirement):
            each = Requirement(line)
            if not each.marker or each.marker.evaluate():
                found[canonicalize_name(each.name)] = str(each.specifier).removeprefix("==")
    return found


LOOKS = (_python, _torch, _gpu, _versions, _results, _store, _data, _studies)
