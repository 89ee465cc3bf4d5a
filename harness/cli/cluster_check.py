"""`harness cluster-check`: whether two nodes of an engine can share this results folder, and what to do if not."""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from harness.ablation.execute import node_check
from harness.ablation.execute.launchers import LOCAL, Launcher, Logs, find
from harness.ablation.execute.node_check import Found
from harness.cli.doctor import Finding, findings_told
from harness.core.errors import Stopped, UserError
from harness.core.files import results_folder, write_json
from harness.core.progress import terminal
from harness.core.provenance import commit
from harness.core.signals import Stop, StopSignal

APART = {"slurm": "--exclusive", "ray": ""}
"""Options for an engine that keep the two jobs on nodes of their own."""
SKEWED_S = 2.0
SLOW_S = 5.0
"""Seconds of clock skew, and of delay until a replaced file is seen, above which a warning is printed."""


def run(options: argparse.Namespace) -> int:
    """Submit two jobs, wait for both, and print one line for each check; return 1 if one prevents studies."""
    if options.launcher == LOCAL:
        raise UserError("--launcher: name the engine whose nodes to check, like slurm.")
    console = terminal()
    stop = StopSignal()
    name = f"check-{datetime.now():%m%d-%H%M%S}-{os.getpid()}"
    folder = results_folder() / "local" / "checks" / name
    write_json(folder / "check.json", {})
    words = " ".join(filter(None, [APART.get(options.launcher, ""), options.on]))
    launcher = find(options.launcher)(folder / "check.json", name, words, None)
    launcher.program = "harness.ablation.execute.node_check"
    launcher.submit([0, 1])
    console.print("Two jobs are submitted. Each waits 15 minutes for the other. Ctrl-C ends the check.")
    try:
        first, second = _both(launcher, folder, stop)
    except BaseException:
        launcher.leave(stopped=True)
        raise
    launcher.leave(stopped=False)
    code = findings_told([*findings(first, second)], console, "studies on these nodes")
    shutil.rmtree(folder)
    return code


def _both(launcher: Launcher, folder: Path, stop: Stop) -> tuple[Found, Found]:
    """Return what both jobs found; `UserError` if one is lost."""
    logs = Logs(launcher)
    while True:
        alive = launcher.alive()
        first, second = (node_check.found(folder, number) for number in (0, 1))
        if first and second:
            return first, second
        logs.new_lines([0, 1])
        if len(alive) < 2 and (reason := next(iter(logs.errors.values()), None)):
            raise UserError(reason)
        if not alive:
            raise UserError(f"both jobs have ended without a result. {launcher.log(0).parent} has their output.")
        if stop():
            raise Stopped("stopped")
        time.sleep(launcher.LOOK_EVERY_S)


def findings(first: Found, second: Found) -> Iterator[Finding]:
    """Yield the findings about two nodes: what was found, and what to do."""
    hosts = f"{first['host']} and {second['host']}"
    same = first["host"] == second["host"]
    yield Finding("nodes", hosts, "Both jobs ran on one node: ask for two with --on, to learn more." if same else "")
    yield _lock(second, same)
    yield _rename(second)
    linked = first["linked"] and second["linked"]
    advice = "" if linked else "Put the results folder on a file system with hard links (HARNESS_RESULTS)."
    yield Finding("hard links", "work" if linked else "do not work", advice, not linked)
    commits = {first["commit"], second["commit"], commit()}
    advice = "Let all nodes use the same checkout, or install the same version." if len(commits) > 1 else ""
    yield Finding("code", ", ".join(sorted(commits)), advice, len(commits) > 1)
    yield _packages(first, second)
    kinds = sorted({first["hardware"], second["hardware"]})
    advice = "The first trial fixes the type, and other nodes refuse: ask for one type with --on."
    yield Finding("hardware", " and ".join(kinds), advice if len(kinds) > 1 else "")
    skew = max(abs(first["skew"]), abs(second["skew"]))
    advice = "Let the nodes set their clocks by NTP: ages of files and times of lines are compared."
    yield Finding("clock", f"{skew:.1f} s from the file system's", advice if skew > SKEWED_S else "")


def _lock(second: Found, same: bool) -> Finding:
    if second["excluded"]:
        return Finding("file locks", "hold on this node" if same else "hold on both nodes")
    advice = (
        "Trials are safe: of two attempts only the newest writes. But run local studies on one results folder from one "
        "node only, or mount it with coherent locks (Lustre: -o flock; NFS: without local_lock)."
    )
    return Finding("file locks", "do nothing" if same else "hold on one node only", advice)


def _rename(second: Found) -> Finding:
    after = second["seen_after"]
    if after is None:
        advice = "Mount it with shorter caches (NFS: actimeo=3), or use another file system."
        return Finding("replaced files", f"not seen in {node_check.SEEN_S:.0f} s", advice, True)
    advice = "Progress and results are seen late. Mount with shorter caches (NFS: actimeo=3)." if after > SLOW_S else ""
    return Finding("replaced files", f"seen after {after:.1f} s", advice)


def _packages(first: Found, second: Found) -> Finding:
    differing = [
        f"{name} {first['packages'].get(name, 'missing')} and {second['packages'].get(name, 'missing')}"
        for name in sorted(first["packages"].keys() | second["packages"].keys())
        if first["packages"].get(name) != second["packages"].get(name)
    ]
    if not differing:
        return Finding("packages", f"{len(first['packages'])}, the same on both")
    return Finding("packages", "; ".join(differing[:5]), "Let all nodes use one environment.", True)
