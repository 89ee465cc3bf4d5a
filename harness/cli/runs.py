"""`harness runs`: lists the runs on disk by study, arm and seed, with their scores."""

from __future__ import annotations

import argparse
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.ablation.design.addresses import Place, stored_plans
from harness.core.errors import UserError
from harness.core.files import runs_folder
from harness.core.progress import terminal
from harness.core.registry import find
from harness.evaluation.metric import label_of
from harness.runs import stored
from harness.runs.folder import Run

ALONE = "outside studies"
"""The heading of runs that `harness train` or a search trained."""

NEEDY = "needs --plugin"
"""The state of a run whose components are in a file that was not named."""


def run(options: argparse.Namespace) -> None:
    """Print the runs, as a table for each study or as JSON; leave out a plan that cannot be read, and say so."""
    console = terminal()
    unread = terminal(stderr=True)
    rows = [_described(place) for place in _places(options.study, unread)]
    if options.study is None:
        known = {row["name"] for row in rows}
        rows += [_alone(folder.name, unread) for folder in stored.folders() if folder.name not in known]
        if needy := [row["name"] for row in rows if row["state"] == NEEDY]:
            said = "1 run needs" if len(needy) == 1 else f"{len(needy)} runs need"
            unread.print(f"{said} the --plugin that defines its components: {', '.join(needy)}", soft_wrap=True)
    if options.json:
        print(json.dumps(rows, indent=1))
    elif not rows:
        of = f" of {options.study}" if options.study else ""
        advice = "Train with `harness train` or `harness ablate STUDY`."
        console.print(f"There is no run{of} in {runs_folder()} yet. {advice}", soft_wrap=True)
    for heading in () if options.json else dict.fromkeys(map(_heading, rows)):
        console.print(_table(heading, [row for row in rows if _heading(row) == heading]))


def _places(study: str | None, unread: Console) -> list[Place]:
    """Return the runs of the stored plans; a run that a changed plan kept is listed once."""
    facts = stored.facts_on_disk()
    found: dict[tuple[str, str], Place] = {}
    for plan in stored_plans(study):
        try:
            found |= {(place.address, place.run.name): place for place in plan.places(facts)}
        except UserError as error:
            unread.print(f"{plan.folder} is left out: {error}", soft_wrap=True)
    return [*found.values()]


def _described(place: Place) -> dict[str, Any]:
    """Return the row of a run in a study."""
    plan = place.plan
    known = {"study": plan.name, "arm": place.arm, "seed": place.seed, "address": place.address}
    return {**known, **_standing(place.run, plan.metric, plan.nfe)}


def _alone(name: str, unread: Console) -> dict[str, Any]:
    """Return the row of a run outside studies."""
    known: dict[str, Any] = {"study": None, "arm": None, "seed": int(name.rpartition("-s")[2]), "address": name}
    try:
        run = Run.find(name)
    except UserError as error:
        nothing = dict.fromkeys(("metric", "nfe", "value", "against"))
        state = NEEDY if "--plugin" in str(error) else "unreadable"
        if state != NEEDY:
            unread.print(str(error), soft_wrap=True)
        return {**known, "state": state, **nothing, "name": name}
    row = {**known, **_standing(run, run.config.evaluate.metrics[0].name, max(run.config.evaluate.nfe))}
    if row["value"] is None and (other := stored.newest_value(run)):
        row |= other._asdict()
    return row


def _standing(run: Run, metric: str, nfe: int) -> dict[str, Any]:
    """Return a run's state, steps and score."""
    score = stored.score(run, run.config.evaluate, metric, nfe)
    about = {"state": stored.state_of(run), "steps": run.steps_done, "metric": metric, "nfe": nfe, **score._asdict()}
    return {**about, "name": run.name, "folder": str(run.folder)}


def _heading(row: dict[str, Any]) -> str:
    if row["study"] is None:
        return ALONE
    metric: Any = find("metric", row["metric"])
    arrow = "↓" if metric.lower_is_better else "↑"
    return f"{row['study']}: {metric.label} {arrow} at NFE {row['nfe']}"


def _table(heading: str, rows: list[dict[str, Any]]) -> Table:
    """Return a table of at most 80 columns: a long name of an arm continues in the next line."""
    table = Table(title=heading, title_justify="left", caption_justify="left")
    if heading != ALONE and len({row["against"] for row in rows} - {None}) > 1:
        table.caption = "Do not compare these values: they use several references or weights (`--json` says which)."
    if any("protocol" in row for row in rows):
        table.caption = "* measured with other settings than the run's own (`--json` names the protocol)"
    table.add_column("arm" if heading != ALONE else "metric", overflow="fold")
    table.add_column("seed", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("name", no_wrap=True)
    for row in rows:
        what = row["arm"] or (f"{label_of(row['metric'])} at NFE {row['nfe']}" if row["metric"] else "")
        value = "" if row["value"] is None else f"{row['value']:.4g}{' *' * ('protocol' in row)}"
        table.add_row(what, str(row["seed"]), row["state"], value, row["name"])
    return table
