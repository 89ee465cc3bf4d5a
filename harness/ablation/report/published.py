"""The committed tables: where they lie, which are of an earlier version, and what studies/README.md says of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from harness.ablation.design.study import studies_folder
from harness.ablation.report.origin import VERSIONS
from harness.ablation.report.verdicts import NOT_COMPARED, UNSTABLE
from harness.core.files import read_json, write_atomic

EARLIER = "An earlier version of the code made"
VERDICTS = {
    "better": "better than the baseline",
    "worse": "worse",
    "tie": "a tie (the 90 % interval lies within the smallest difference)",
    UNSTABLE: "unstable (seeds diverged)",
    "undecided": "undecided (these seeds cannot say)",
}
"""{verdict: its words}, in the order of the list; others follow under their own name."""


def published_folder() -> Path:
    """results/ beside studies/: its tables/ and figures/ are committed."""
    return studies_folder().absolute().parent / "results"


def renew() -> list[Path]:
    """Write again what follows from the committed tables: the marks of earlier versions, and studies/README.md.

    Returns the path of the latter.
    """
    tables = published_folder() / "tables"
    verdicts = studies_folder() / "README.md"
    for path in sorted(tables.glob("*.md")):
        text = path.read_text()
        if (now := marked(text, read_json(path.with_suffix(".json")))) != text:
            write_atomic(path, now)
    write_atomic(verdicts, readme(verdicts.read_text() if verdicts.exists() else "# What the studies said\n", tables))
    return [verdicts]


def earlier(about: Mapping[str, Any]) -> str | None:
    """The line about a table that an earlier version of the code made, from its JSON; None where none did.

    A table of several `scales` has a version for each. A JSON that names no version is of version 1.
    """
    scales = about.get("scales", {"": about})
    older = [name for name, scale in scales.items() if any(scale.get(key, 1) < now for key, now in VERSIONS.items())]
    which = "this table" if len(older) == len(scales) else f"the rows of {', '.join(older)}"
    return f"{EARLIER} {which}: the same command gives other numbers now." if older else None


def marked(table: str, about: Mapping[str, Any]) -> str:
    """A table's Markdown with that line below its title where it is true, and without it where it is not."""
    title, *rest = table.split("\n\n")
    rest = rest[1:] if rest and rest[0].startswith(f"> {EARLIER}") else rest
    line = earlier(about)
    return "\n\n".join([title, *([f"> {line}"] if line else []), *rest])


def readme(before: str, tables: Path) -> str:
    """studies/README.md: what stands `before` its first section, then a section for every table of a study."""
    head = before.partition("\n## ")[0].strip()
    studies = [path for path in sorted(tables.glob("*-*.csv")) if not path.stem.endswith("-trials")]
    return "\n\n".join([head, *map(section, studies)]) + "\n"


def section(table: Path) -> str:
    """What one study found at one scale, from its CSV and the JSON beside it."""
    about = read_json(table.with_suffix(".json"))
    rows = pd.read_csv(table)
    primary = rows[rows.primary]
    metric = about["primary"]["metric"]
    nfe = about["primary"]["nfe"]
    baseline = primary[primary.verdict == "baseline"].arm.item()
    lines = [
        f"## {table.stem}",
        about["question"],
        f"{metric.upper()} at NFE {nfe} against `{baseline}`, {len(about['runs'][baseline])} seeds; "
        f"{about['date']}, plan {about['plan']}, commit {', '.join(about['commits'])}.",
        *filter(None, [earlier(about)]),
    ]
    found = [f"- {words}: {'; '.join(arms)}" for words, arms in _by_verdict(rows, metric, nfe).items()]
    if (detectable := about["detectable_difference"]) is not None:
        found.append(f"- the smallest difference that these seeds find with 80 % power: {detectable:.0%}")
    picture = f"[table](../results/tables/{table.stem}.md), [picture](../results/figures/{table.stem}.png)"
    return "\n\n".join([*lines, "\n".join(found), picture])


def _by_verdict(rows: pd.DataFrame, metric: str, nfe: int) -> dict[str, list[str]]:
    """{words of a verdict: its arms with their differences, the lowest first}.

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
        found.setdefault(words, []).append(f"`{row.arm}` {told}")
    return {words: arms for words, arms in found.items() if arms}


def _why_not(row: pd.Series, own: pd.DataFrame, nfe: int) -> str:
    """Why an arm has no difference at the primary NFE, from its own row there and its rows at every NFE."""
    if isinstance(reason := row.get("reason"), str):
        return reason
    if row.n:
        return "its values and the baseline's have no ratio, or no seed in common"
    if not own[(own.nfe == 0) & (own.n > 0)].empty:
        return f"its solver chooses its calls, so it has no value at NFE {nfe}"
    return f"it has no value at NFE {nfe}"
