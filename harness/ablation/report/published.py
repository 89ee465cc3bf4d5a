"""The pages about the committed tables: the marks of earlier versions, studies/README.md, and the pages of papers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired

import pandas as pd
from typing_extensions import TypedDict

from harness.ablation.design.folder import studies_folder
from harness.ablation.design.looks import LEVEL
from harness.ablation.report import claims_page, hours, paper_page
from harness.ablation.report.committed import (
    EARLIER,
    RESTORED,
    Made,
    earlier,
    is_current,
    published_folder,
    publishing_folder,
    read_table,
    text_of,
)
from harness.ablation.report.grid import capitalised
from harness.ablation.report.power import Power, sd_of
from harness.ablation.report.verdicts import BASELINE, NOT_COMPARED, UNDECIDED, UNSTABLE
from harness.core.errors import UserError
from harness.core.files import read_json, write_atomic
from harness.core.provenance import named
from harness.core.reading import short
from harness.evaluation.metric import label_of

_COLUMNS = {
    "arm": "O", "metric": "O", "nfe": "i", "n": "if", "difference": "f", "low": "f", "high": "f", "primary": "b",
    "verdict": "O",
}  # fmt: skip
"""{column of a study's table that is read here: its allowed NumPy kinds}"""


class Primary(TypedDict):
    """The metric and NFE of a study's verdicts."""

    metric: str
    nfe: int
    against: NotRequired[str]
    """The other side of the comparison, if it is not the baseline."""


class OfStudy(TypedDict):
    """The entries of the JSON beside a study's table that studies/README.md uses."""

    question: str
    primary: Primary
    runs: dict[str, list[str]]
    date: str
    plan: str
    commits: list[str]


GLANCE = "Verdicts at a glance"
TOOK = "Trials and hours of one core"
VERDICTS = {
    "better": "better than the baseline",
    "worse": "worse",
    "tie": "a tie (its interval lies within the smallest difference)",
    UNSTABLE: "unstable (seeds diverged)",
    UNDECIDED: "undecided (these seeds cannot say)",
}
"""{verdict: its words}, in the order of the list; other verdicts follow under their names."""


def renew() -> list[Path]:
    """Write the marks of earlier versions into the committed tables, and the pages of studies/; return their paths."""
    tables = publishing_folder() / "tables"
    verdicts = studies_folder() / "README.md"
    for path in sorted(tables.glob("*.md")):
        text = text_of(path)
        if (now := marked(text, read_json(path.with_suffix(".json"), Made, RESTORED))) != text:
            write_atomic(path, now)
    write_atomic(verdicts, readme(text_of(verdicts) if verdicts.exists() else "# What the studies said\n", tables))
    papers = studies_folder() / "papers"
    if not papers.is_dir():
        return [verdicts]
    write_atomic(papers / "README.md", paper_page.page())
    return [verdicts, papers / "README.md", *claims_page.write(published_folder())]


def marked(table: str, about: Mapping[str, Any]) -> str:
    """Return a table's Markdown with the line of `earlier` below its title, or without it for the current version."""
    title, *rest = table.split("\n\n")
    rest = rest[1:] if rest and rest[0].startswith(f"> {EARLIER}") else rest
    line = earlier(about)
    return "\n\n".join([title, *([f"> {line}"] if line else []), *rest])


def readme(before: str, tables: Path) -> str:
    """Return studies/README.md: the head of the text `before`, all verdicts, trials and hours, then each table."""
    head = before.partition("\n## ")[0].strip()
    studies = [path for path in sorted(tables.glob("*-*.csv")) if not path.stem.endswith(("-trials", "-seeds"))]
    current = [path for path in studies if is_current(path)]
    parts = {GLANCE: glance(current), TOOK: hours.table(current, RESTORED)} if current else {}
    said = [part for title, text in parts.items() for part in (f"## {title}", text)]
    return "\n\n".join([head, *said, *map(section, studies)]) + "\n"


def glance(tables: Sequence[Path]) -> str:
    """Return a Markdown table of all verdicts: a row for each study, with its arms and their differences."""
    words = ("better", "tie", "worse", UNDECIDED)
    lines = [f"| study | {' | '.join(words)} | without a verdict |", "| --- |" + " --- |" * (len(words) + 1)]
    for table in tables:
        rows = read_table(table, _COLUMNS)
        primary = rows[rows.primary].sort_values("difference")
        told = [(row.verdict, f"`{row.arm}` {row.difference:+.0%}") for _, row in primary.iterrows()]
        cells = ["; ".join(arm for verdict, arm in told if verdict == word) for word in words]
        others = primary[~primary.verdict.isin([*words, BASELINE])]
        cells.append("; ".join(f"`{row.arm}` {row.verdict}" for _, row in others.iterrows()))
        lines.append(f"| {table.stem} | {' | '.join(cells)} |")
    return "\n".join(lines)


def section(table: Path) -> str:
    """Return the section about one study at one scale, from its CSV and the JSON beside it."""
    about = read_json(table.with_suffix(".json"), OfStudy, RESTORED)
    rows = read_table(table, _COLUMNS)
    primary = rows[rows.primary]
    metric = about["primary"]["metric"]
    nfe = about["primary"]["nfe"]
    baseline = next(iter(primary[primary.verdict == "baseline"].arm), None)
    if baseline not in about["runs"]:
        raise UserError(f"{table}: cannot be read (its baseline is {short(baseline)}). {RESTORED}")
    against = about["primary"].get("against", f"`{baseline}`")
    lines = [
        f"## {table.stem}",
        about["question"],
        f"{capitalised(label_of(metric))} at NFE {nfe} against {against}, {len(about['runs'][baseline])} seeds; "
        f"{about['date']}, plan {about['plan']}, {named(about['commits'])}.",
        *filter(None, [earlier(about)]),
    ]
    found = [f"- {words}: {'; '.join(arms)}" for words, arms in _by_verdict(rows, metric, nfe).items()]
    if powers := _powers(primary):
        found.append(f"- what these seeds find with 80 % power: {'; '.join(powers)}")
    picture = f"[table](../results/tables/{table.stem}.md), [picture](../results/figures/{table.stem}.png)"
    return "\n\n".join([*lines, "\n".join(found), picture])


def _powers(primary: pd.DataFrame) -> list[str]:
    """Return the fall and the rise that each tested arm's seeds find, from the intervals in its CSV.

    A table without a column `level` has 95 % intervals, and tests that divide `LEVEL` over its arms.
    """
    tested = primary[primary.low.notna() & (primary.verdict != NOT_COMPARED)]
    found = []
    for _, row in tested.sort_values("difference").iterrows():
        n = int(row.get("pairs", row.n))
        of_interval, of_test = (row.get("level", level) for level in (LEVEL, LEVEL / len(tested)))
        power = Power(n, sd_of(row.low, row.high, n, of_interval), of_test, len(tested))
        if 0 < power.sd < math.inf:
            found.append(f"`{row.arm}` {power.found.fall:+.0%} or {power.found.rise:+.0%}")
    return found


def _by_verdict(rows: pd.DataFrame, metric: str, nfe: int) -> dict[str, list[str]]:
    """Return {words of a verdict: its arms with their differences, the lowest first}.

    An arm without a difference is not compared.
    """
    found: dict[str, list[str]] = {words: [] for words in VERDICTS.values()}
    others = rows[rows.primary & (rows.verdict != "baseline")].sort_values("difference")
    for _, row in others.iterrows():
        words = VERDICTS.get(row.verdict, row.verdict)
        told = f"{row.difference:+.1%}"
        if row.verdict == NOT_COMPARED or (pd.isna(row.difference) and row.verdict != UNSTABLE):
            own = rows[(rows.arm == row.arm) & (rows.metric == metric)]
            words = NOT_COMPARED
            told = f"({_why_not(row, own, nfe)})"
        elif pd.isna(row.difference):
            told = f"({row.reason})"
        elif not pd.isna(row.low):
            told += f" ({row.low:+.1%} to {row.high:+.1%})"
        if row.verdict in ("better", "worse") and isinstance(reason := row.get("reason"), str):
            told += f", {reason}"
        found.setdefault(words, []).append(f"`{row.arm}` {told}")
    return {words: arms for words, arms in found.items() if arms}


def _why_not(row: pd.Series, own: pd.DataFrame, nfe: int) -> str:
    """Return why an arm has no difference at the primary NFE, from its row there and its rows at every NFE."""
    if isinstance(reason := row.get("reason"), str):
        return reason
    if row.n:
        return "its values and the baseline's have no ratio, or no seed in common"
    if not own[(own.nfe == 0) & (own.n > 0)].empty:
        return f"its solver chooses its calls, so it has no value at NFE {nfe}"
    return f"it has no value at NFE {nfe}"
