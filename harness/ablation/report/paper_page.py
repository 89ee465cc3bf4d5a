"""The page studies/papers/README.md: each row of a published table, and how far its configuration is the paper's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from harness.ablation.design.paper import Compared, PaperTable, Published, compare, load_paper, paper_names, shown

STATUSES = {
    "exact": "our configuration has every setting that the authors state. Settings that they do not state are listed "
    "with our values",
    "differs": "a setting has another value, or a part of the recipe has no setting here",
    "cannot": "the row has no configuration here",
}
"""{status of a row: its meaning}"""
_LISTED = "\n".join(f"- **{status}**: {meaning}." for status, meaning in STATUSES.items())
HEAD = f"""# Published tables, and our configurations of their rows

For every row of a table, the settings that its authors state are compared with our configuration, one by one.

{_LISTED}

Each table has another protocol: compare values within one table only. Nothing on this page was trained. `harness papers
TABLE ROW` prints the commands that train a row. `harness publish` writes this page from the files beside it."""


def page() -> str:
    """Return the page, from all files in studies/papers/; `ConfigError` if a row's settings do not go together."""
    return "\n\n".join([HEAD, *(section(load_paper(name)) for name in paper_names())]) + "\n"


def section(table: PaperTable) -> str:
    """Return a table's section in Markdown."""
    rows = {row: compare(table, row) for row in table.rows}
    shared = in_all(rows)
    told = [f"## {table.name}", f"{table.paper}. Scale `{table.scale}`: {counted(rows)}."]
    if shared:
        told.append("\n".join(["Every configuration differs in:", "", *(f"- {why}" for why in shared)]))
    changes = {row: table.changes(row) for row, compared in rows.items() if compared.status != "cannot"}
    first = next(iter(changes.values()), {})
    common = [
        path for path in first if path in table.ours and all(each.get(path) == first[path] for each in changes.values())
    ]
    if common:
        told.append(f"Every configuration changes in the scale {_settings(first, common)}.")
    lines = ["| row | published | status | differs in | changes in the scale |", "| --- | --- | --- | --- | --- |"]
    for row, compared in rows.items():
        own = ", ".join(why for why in compared.why if why not in shared) or ("see above" if compared.why else "")
        mine = changes.get(row, {})
        other = _settings(mine, [path for path in mine if path not in common])
        values = published(table.rows[row].published)
        lines.append(f"| {row} | {values} | {compared.status} | {own} | {other} |")
    told.append("\n".join(lines))
    if unstated := _unstated(rows):
        told.append(f"The authors do not state (our values): {unstated}.")
    return "\n\n".join(told)


def published(values: Mapping[str, Published]) -> str:
    """Return published values as text, like `FID 6.35; NFE 142` or `FID 19.8 ± 0.39`."""
    return "; ".join(f"{name} {number(value)}" for name, value in values.items())


def number(value: Published) -> str:
    """Return a published value as text, like `6.35` or `19.8 ± 0.39`."""
    return f"{value[0]:g} ± {value[1]:g}" if isinstance(value, tuple) else f"{value:g}"


def counted(rows: Mapping[str, Compared]) -> str:
    """Return the number of rows of each status, like `2 exact, 1 differs`."""
    statuses = Counter(compared.status for compared in rows.values())
    return ", ".join(f"{number} {status}" for status, number in sorted(statuses.items()))


def in_all(rows: Mapping[str, Compared]) -> list[str]:
    """Return the differences that all configurations share; empty if there is only one configuration."""
    own = [compared.why for compared in rows.values() if compared.status != "cannot"]
    return [why for why in own[0] if all(why in other for other in own)] if len(own) > 1 else []


def _unstated(rows: Mapping[str, Compared]) -> str:
    """Return the settings that the authors do not state, with our values; rows are named if others state a setting."""
    made = {name: compared.unstated for name, compared in rows.items() if compared.status != "cannot"}
    told = []
    for path in dict.fromkeys(path for unstated in made.values() for path in unstated):
        having = {name: shown(unstated[path]) for name, unstated in made.items() if path in unstated}
        values = " or ".join(dict.fromkeys(having.values()))
        where = f" ({', '.join(having)})" if len(having) < len(made) else ""
        told.append(f"`{path}` {values}{where}")
    return "; ".join(told)


def _settings(changes: Mapping[str, object], paths: list[str]) -> str:
    return "; ".join(f"`{path}` {shown(changes[path])}" for path in paths)
