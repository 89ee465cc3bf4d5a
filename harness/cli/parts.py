"""Commands about components and data: what there is, what they mean, whether they keep their promises."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.studies import plan_of
from harness.core.config import override, parse_assignments
from harness.core.errors import UserError

if TYPE_CHECKING:
    from harness.data.base import Data


def list_components(options: argparse.Namespace) -> None:
    """The components of every family, or of one."""
    import json

    from rich.console import Console
    from rich.table import Table

    from harness.core.registry import HOMES, describe

    families = {family: describe(family) for family in ([options.family] if options.family else HOMES)}
    if options.json:
        print(json.dumps(families, indent=1))
        return
    console = Console()
    for family, members in families.items():
        table = Table(
            "name", "about", "parameters", "source", title=family, title_justify="left", show_lines=True, expand=True
        )
        for member in members:
            parameters = "\n".join(f"{name} = {_default(value)}" for name, value in member["parameters"].items())
            table.add_row(member["name"], member["about"], parameters, member["source"])
        console.print(table)


def _default(value: Any) -> Any:
    """A parameter's default as `list` shows it: a component by its name."""
    return value["name"] if isinstance(value, dict) else "(needed)" if value is None else value


def explain(options: argparse.Namespace) -> None:
    """A formulation written out, or the arms of a study compared, and the effective weight drawn."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from harness.ablation.design.study import load_scale
    from harness.runs.explain import Explained, alike, draw
    from harness.runs.validate import refuse_idle

    if options.out.suffix != ".png":
        raise UserError(f"--out: {options.out} is no .png. Name the picture so.")
    console = Console()
    if options.study:
        plan = plan_of(options)
        arms = {name: Explained.of(config) for name, config in plan.arms.items()}
        for line in alike(arms) or ["no two arms share their objective or their weight over log SNR."]:
            console.print(f"- {line}", highlight=False)
    else:
        changes = parse_assignments(options.changes)
        config = override(load_scale(options.scale), changes)
        refuse_idle(changes, [config])
        arms = {"": Explained.of(config)}
        table = Table("part", "formula", "source", show_lines=True)
        for row in arms[""].lines():
            table.add_row(*map(escape, row))
        console.print(table)
    draw(arms, options.out)
    print(f"wrote {options.out}: the effective weight over log SNR")


def check(options: argparse.Namespace) -> None:
    """A user's components against what their families promise."""
    from rich.console import Console

    from harness.core.registry import load_plugin, members_of
    from harness.testing.contract import promises

    console, broken = Console(), 0
    components = members_of(load_plugin(options.file))
    if not components:
        raise UserError(f"{options.file}: declares no component. Give one a name: class Mine(Weighting, name='mine').")
    for component in components:
        kept = promises(component)
        for promise, is_kept in kept:
            if not is_kept:
                console.print(f"broken: {component.family} {component.name}: {promise}", highlight=False, markup=False)
        broken += sum(not is_kept for _, is_kept in kept)
        console.print(
            f"{component.family} {component.name}: {sum(k for _, k in kept)} of {len(kept)} promises kept",
            highlight=False,
        )
    if broken:
        raise UserError(f"{options.file}: {broken} promises are broken. Mend the components named above.")


def data(options: argparse.Namespace) -> None:
    """The data sets, or one of them prepared and shown."""
    from rich.console import Console
    from rich.table import Table

    from harness.core.registry import build, describe
    from harness.data.base import data_folder

    if options.name is None:
        if options.changes or options.out:
            raise UserError("NAME: which data set? Name one of those that `harness data` lists.")
        table = Table("name", "about", "needs")
        for member in describe("dataset"):
            needs = [name for name, value in member["parameters"].items() if value is None]
            table.add_row(member["name"], member["about"], ", ".join(needs))
        Console().print(table)
        print(
            f"files are looked for in {data_folder().absolute()}; `harness data NAME` prepares a set and shows what it holds"
        )
        return
    dataset = build("dataset", {"name": options.name, **parse_assignments(options.changes)})
    data = dataset.load()
    rows = {
        "samples": f"{len(data.train)} to train on, {len(data.held_out)} held out",
        "kind, shape": f"{data.kind} {list(data.shape)}",
        "classes": ", ".join(data.class_names) or str(data.num_classes or "none"),
        "features": ", ".join(data.names[:8]) + (f", ... ({len(data.names)})" if len(data.names) > 8 else "")
        if data.names
        else "",
        "fingerprint": str(data.fingerprint["sha256"]),
    }
    for name, value in rows.items():
        if value:
            print(f"{name}: {value}")
    for line in data.notes:
        print(line)
    if options.out:
        _show(data, options.out)


def _show(data: Data, path: Path) -> None:
    """Draw held-out samples beside training samples."""
    from harness.data.base import spaced
    from harness.data.pictures import SHOWN, draw

    if path.suffix != ".png":
        raise UserError(f"--out: {path} is no .png. Name the picture so.")
    chosen = spaced(SHOWN[data.kind], len(data.held_out))
    draw(data, data.held_out[chosen], path, "held-out samples")
    print(f"wrote {path}: {len(chosen)} of {len(data.held_out)} held-out samples")
