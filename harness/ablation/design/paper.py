"""Tables of papers: the settings that their authors state, and which of them our configurations have."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from harness.ablation.design.claim import Claim, Column
from harness.ablation.design.crossing import Settings
from harness.ablation.design.folder import papers_folder
from harness.ablation.design.study import Study, load_declared, load_scale
from harness.core.config import override, to_dict
from harness.core.errors import ConfigError, UserError, did_you_mean
from harness.runs.config import RunConfig

Published = float | tuple[float, float]
"""A published value, or its mean and standard deviation over runs."""
ABSENT = object()
"""The value of a path that a configuration does not have."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a published table."""

    stated: Settings = field(default_factory=dict)
    """{path: value} that the authors state for this row, besides those of the table. The configuration takes them: a
    component replaces the scale's, so give all parameters that are not its defaults."""
    ours: Settings = field(default_factory=dict)
    """{path: value} of our configuration that the authors do not state, or state otherwise."""
    lacks: Mapping[str, str] = field(default_factory=dict)
    """{a part of the recipe that has no setting here: what we have instead}."""
    published: Mapping[str, Published] = field(default_factory=dict)
    """{column: the published value}."""
    cannot: str = ""
    """Why no configuration stands for this row; empty if one does."""


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A published table, as a file in studies/papers/ assigns it to `TABLE`."""

    paper: str
    """Authors, year, title and table."""
    scale: str
    """Scale that the configurations start from."""
    rows: Mapping[str, Row]
    stated: Settings = field(default_factory=dict)
    """{path: value} that the authors state for all rows. They are compared with the scale and `ours`, not set: a
    component may name some parameters only."""
    ours: Settings = field(default_factory=dict)
    """{path: value} that all configurations change in the scale."""
    unstated: Sequence[str] = ()
    """Paths of settings that the authors do not state."""
    lacks: Mapping[str, str] = field(default_factory=dict)
    """As in `Row`, for all rows."""
    evaluations: Mapping[str, Settings] = field(default_factory=lambda: {"": {}})
    """{columns of the table: the settings of their evaluation}."""
    scales: Sequence[str] = ("digits",)
    """Scales at which our values stand beside the published ones, the default first: claims predict for this one."""
    columns: Mapping[str, Column] = field(default_factory=dict)
    """{column: the values that stand beside it at these scales}."""
    claims: Mapping[str, Claim] = field(default_factory=dict)
    """{short name: claim}."""
    name: str = ""
    """The name of the file; loading sets it."""

    def configurations(self, row: str) -> dict[str, RunConfig]:
        """Return {columns: configuration} of a row; `ConfigError` where its settings do not go together."""
        scale = load_scale(self.scale)
        changes = self._settings(row)
        return {columns: override(scale, {**changes, **given}) for columns, given in self.evaluations.items()}

    def changes(self, row: str) -> dict[str, Any]:
        """Return {path: value} by which a row's configurations differ from the scale, without the evaluations."""
        scale = load_scale(self.scale)
        changes = self._settings(row)
        whole = override(scale, changes)
        for path in list(changes):
            rest = {other: value for other, value in changes.items() if other != path}
            try:
                idle = override(scale, rest) == whole
            except ConfigError:  # the others need it
                continue
            if idle:
                changes = rest
        return changes

    def _settings(self, row: str) -> dict[str, Any]:
        return {**self.ours, **self.rows[row].stated, **self.rows[row].ours}

    def __post_init__(self) -> None:
        if not self.scales or not all(column.arms for column in self.columns.values()):
            raise UserError("a table needs a scale, and each column an arm.")
        for row, known in self.rows.items():
            for column, value in known.published.items():
                if (value[0] if isinstance(value, tuple) else value) <= 0:
                    raise UserError(f"row {row}: {column} {value} is not positive, so it has no relative difference.")
        for key, claim in self.claims.items():
            for part in claim.parts:
                where = f"claim {key}: '"
                if part.column not in self.columns:
                    raise UserError(f"{where}{part.column}' is not a column. {did_you_mean(part.column, self.columns)}")
                for row in part.rows:
                    if row not in (arms := self.columns[part.column].arms):
                        raise UserError(f"{where}{row}' is not a row of {part.column}. {did_you_mean(row, arms)}")

    @property
    def studies(self) -> list[str]:
        """The studies that measure the columns."""
        return list(dict.fromkeys(column.study for column in self.columns.values()))

    def published(self, column: str, row: str) -> Published | None:
        """Return the published value that stands beside ours; None if the paper gives none."""
        return self.rows[row].published.get(self.columns[column].published) if row in self.rows else None

    def at(self, scale: str) -> PaperTable:
        """Return the table at a scale: columns with their metrics, and claims without a prediction for another scale.

        At the scale of the paper, the rows' own configurations replace the small studies. A claim stays there if all
        its rows have a configuration and a published value.
        """
        if scale == PAPER:
            return self._at_paper_scale()
        first = load_scale(scale).evaluate.metrics[0].name
        columns = {name: replace(column, metric=column.metric or first) for name, column in self.columns.items()}
        claims = self.claims if scale == self.scales[0] else _unpredicted(self.claims)
        return replace(self, columns=columns, claims=claims)

    def _at_paper_scale(self) -> PaperTable:
        columns = {}
        for name, column in self.columns.items():
            rows = [row for row in column.arms if self.published(name, row) is not None and not self.rows[row].cannot]
            if not rows:
                continue
            columns[name] = replace(
                column,
                study=f"{self.name}_paper",
                arms={row: arm_of(row, column.evaluation) for row in rows},
                nfe=column.nfe if column.paper_nfe is None else column.paper_nfe,
                metric=column.metric or self._first_metric(rows[0], column.evaluation),
            )
        claims = {
            key: claim
            for key, claim in self.claims.items()
            if all(part.column in columns and {*part.rows} <= {*columns[part.column].arms} for part in claim.parts)
        }
        return replace(self, columns=columns, claims=_unpredicted(claims))

    def _first_metric(self, row: str, evaluation: str) -> str:
        return self.configurations(row)[evaluation].evaluate.metrics[0].name

    def paper_study(self) -> Study:
        """Return the study whose arms are the rows' configurations; `UserError` if fewer than two have one."""
        rows = [row for row, known in self.rows.items() if not known.cannot]
        if len(rows) < 2:
            raise UserError(f"{self.name}: {len(rows)} rows have a configuration, and a comparison needs two.")
        compared = {arm for column in self.at(PAPER).columns.values() for arm in column.arms.values()}
        arms = {
            arm_of(row, columns): {**self.changes(row), **evaluation}
            for row in rows
            for columns, evaluation in self.evaluations.items()
            if arm_of(row, columns) in compared
        }
        baseline = next(iter(arms))
        at = override(load_scale(self.scale), arms[baseline]).evaluate.nfe[-1]
        return Study(question=f"{self.paper}: how do its rows compare?", baseline=baseline, arms=arms, nfe=at,
                     name=f"{self.name}_paper")  # fmt: skip


PAPER = "paper"
"""The scale of the rows' own configurations."""


def _unpredicted(claims: Mapping[str, Claim]) -> dict[str, Claim]:
    """Return the claims without their predictions, which are for one scale only."""
    return {key: replace(claim, expected=None, because="") for key, claim in claims.items()}


def arm_of(row: str, columns: str) -> str:
    """Return the arm of a row under an evaluation, at the scale of the paper."""
    return f"{row}, {columns}" if columns else row


class Compared(NamedTuple):
    """A row's configuration beside the settings that the authors state."""

    status: Literal["exact", "differs", "cannot"]
    """exact: every stated setting has its value, and no part of the recipe lacks a setting."""
    why: list[str]
    """Each difference in words, or why no configuration stands for the row."""
    unstated: dict[str, Any]
    """{path: our value} of settings that the authors do not state."""


def compare(table: PaperTable, row: str) -> Compared:
    """Compare a row's configurations with what its authors state, setting by setting."""
    published = table.rows[row]
    if published.cannot:
        return Compared("cannot", [published.cannot], {})
    stated = {**table.stated, **published.stated}
    silent = [path for path in (*table.unstated, *table.ours, *published.ours) if path not in stated]
    unstated: dict[str, Any] = {}
    why: dict[str, None] = {}
    for config in table.configurations(row).values():
        plain = to_dict(config)
        for path, value in stated.items():
            if not agrees(have := at(plain, path), value):
                why[f"`{path}` {shown(value)}; here: {shown(have)}"] = None
        unstated |= {path: at(plain, path) for path in silent}
    lacks = {**table.lacks, **published.lacks}
    differences = [*why, *(f"{part}; here: {instead}" for part, instead in lacks.items())]
    return Compared("differs" if differences else "exact", differences, unstated)


def at(plain: Any, path: str) -> Any:
    """Return the value at a path of a plain configuration, or ABSENT."""
    for name in path.split("."):
        if not isinstance(plain, Mapping) or name not in plain:
            return ABSENT
        plain = plain[name]
    return plain


def agrees(have: Any, stated: Any) -> bool:
    """Whether a plain value has the stated one. A name stands for a component of any parameters; a mapping for one with
    these parameters."""
    if isinstance(have, Mapping):
        if not isinstance(stated, Mapping):
            return have.get("name") == stated
        return all(agrees(have.get(name, ABSENT), value) for name, value in stated.items())
    if isinstance(have, list) and isinstance(stated, (list, tuple)):
        return len(have) == len(stated) and all(map(agrees, have, stated))
    if isinstance(have, float) and isinstance(stated, (int, float)):
        return math.isclose(have, stated, rel_tol=1e-9)
    return bool(have == stated)


def shown(value: Any) -> str:
    """Return a plain value in words: a component by name and parameters, a run by its network and data."""
    if value is ABSENT:
        return "nothing"
    if isinstance(value, Mapping) and "backbone" in value:
        return f"{value['backbone']['name']} on {value['dataset']['name']}"
    if isinstance(value, Mapping):
        parameters = ", ".join(f"{name} {shown(each)}" for name, each in value.items() if name != "name")
        return f"{value['name']} ({parameters})" if "name" in value and parameters else value.get("name", parameters)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(shown, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def paper_names() -> list[str]:
    """Return the names of all tables of papers, sorted; `UserError` if there is none."""
    if not papers_folder().is_dir():
        raise UserError(f"{papers_folder()}: does not exist. Set HARNESS_STUDIES to a folder that has papers/.")
    return sorted(path.stem for path in papers_folder().glob("*.py"))


def load_paper(name: str) -> PaperTable:
    """Load a table of a paper by its name; `UserError` if there is none."""
    if name not in (known := paper_names()):
        raise UserError(f"'{name}' is not a known table of a paper. {did_you_mean(name, known)}")
    return load_declared(str(papers_folder() / f"{name}.py"), "TABLE", PaperTable)
