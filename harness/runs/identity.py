"""What names a run: all that its training depends on. And why a folder is not the run that it is called."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.config import digest, override, to_dict
from harness.core.errors import ConfigError, UserError
from harness.core.registry import sources
from harness.data.base import load

if TYPE_CHECKING:
    from harness.runs.config import RunConfig

NUMERICS_VERSION = 3
"""Raised by hand when a change of the code alters what the same configuration gives.

2: held-out samples are drawn by class instead of taken at equal distances; evenly spaced rows are exact. Cells are
normalised over all genes of their folder, and of equally variable genes no more are chosen than asked for. The held-out
loss, by which the best checkpoint is chosen, is of the true classes; looks change no buffers.
3: a weighting that its paper states for the error of one quantity is converted for the error that is measured, and
`sigmoid` has the factor -d lambda / dt. `min_snr` on an error that is not the data's was what `clipped_snr` is now.
"""

FACTS = ("numerics_version", "data", "resolved", "sources", "files", "pair_sources", "teacher")
"""The names of the facts that a run's name covers beside its configuration; the last two of a run with a teacher."""


def facts_of(config: RunConfig) -> dict[str, Any]:
    """What a name covers beside the configuration: the code, the data, what "auto" is here.

    A run keeps it in environment.json.
    """
    facts: dict[str, Any] = {
        "numerics_version": NUMERICS_VERSION,
        "data": load(config.dataset).fingerprint,
        "resolved": config.train.resolved(),
        "sources": sources(config.learned())
        | sources(config.dataset)
        | sources(config.backbone)
        | sources(config.train),
        "files": {**config.coupling.fingerprint(), **config.noise.fingerprint()},
    }
    if config.parent is not None:
        facts["pair_sources"] = sources(dataclasses.replace(config.reflow, teacher=None))
        facts["teacher"] = training_digest(config.parent)
    return facts


def training_digest(config: RunConfig, facts: Mapping[str, Any] | None = None) -> str:
    """12 hex digits over all that the trained weights depend on, the seed aside; `facts` replace those of here and now.

    The device belongs to it: the random streams of a CPU and a GPU differ.
    """
    facts = facts or facts_of(config)
    identity = to_dict(config, digested=True)
    del identity["evaluate"], identity["seed"], identity["reflow"]
    identity["train"] |= facts["resolved"]
    if config.parent is not None:
        del identity["coupling"]
        identity |= {"pairs": _pairs(config, facts), "warm_start": config.reflow.warm_start}
    if config.reflow.distil:
        del identity["weighting"], identity["time_sampler"], identity["objective"]["normalise_weight"]
        identity["distil"] = True
    return digest({**identity, **{name: facts[name] for name in ("data", "files", "sources", "numerics_version")}})


def pairs_digest(config: RunConfig) -> str:
    """12 hex digits over all that the pairs which a run learns depend on, the seed aside."""
    return digest(_pairs(config, facts_of(config)))


def _pairs(config: RunConfig, facts: Mapping[str, Any]) -> dict[str, Any]:
    making = to_dict(config.pairs_sampling, digested=True)
    for name in ("rounds", "distil", "teacher", "warm_start", "later_guidance"):
        del making[name]
    return {
        **making,
        "teacher": facts["teacher"],
        "sources": facts["pair_sources"],
    }


def changed(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """A finished run's configuration with changes of `evaluate` and of what its name does not depend on.

    `UserError` for other changes.
    """
    new = override(config, {**changes, **_of_teachers(config, changes)})
    if _learned(new) != _learned(config):
        possible = leaving_the_name(config, changes)
        path = next(path for path in changes if path not in possible and not path.startswith("evaluate."))
        raise UserError(f"{path}: a finished run cannot be changed in that. Change evaluate.*, or train another run.")
    return new


def leaving_the_name(config: RunConfig, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the changes, beside `evaluate`, that say how and where alone: the device, where the data lie."""
    out = {}
    for path, value in changes.items():
        try:
            same = _learned(override(config, {path: value, **_of_teachers(config, {path: value})})) == _learned(config)
        except ConfigError:  # it may go together with others
            same = False
        if same and not path.startswith("evaluate."):
            out[path] = value
    return out


def _learned(config: RunConfig) -> dict[str, Any]:
    return {name: value for name, value in to_dict(config, digested=True).items() if name != "evaluate"}


def _of_teachers(config: RunConfig, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The same changes of the teachers that a configuration names: they read the same data on the same device."""
    out = dict[str, Any]()
    prefix = "reflow.teacher."
    teacher = config.reflow.teacher
    own = {
        path: value for path, value in changes.items() if path.partition(".")[0] not in ("evaluate", "reflow", "seed")
    }
    while teacher is not None:
        out |= {prefix + path: value for path, value in own.items()}
        prefix += "reflow.teacher."
        teacher = teacher.reflow.teacher
    return out


def require_named(config: RunConfig, folder: Path, environment: Mapping[str, Any], device_chosen: bool) -> None:
    """`UserError` with the reason where a folder is not the run of its configuration, or its data are not found.

    `environment` is what its environment.json says. A run of another device is taken where the device is chosen by
    hand.
    """
    try:
        now = facts_of(config)
    except ConfigError as error:
        where = f" Or say where it lies now: --set {error.path}=..." if error.path.endswith("path") else ""
        raise UserError(f"{error}{where}") from None
    if reason := _misnamed(config, folder.name, environment, now, device_chosen):
        raise UserError(f"{folder}: {reason}")


def _misnamed(
    config: RunConfig, name: str, environment: Mapping[str, Any], now: dict[str, Any], device_chosen: bool
) -> str | None:
    """Why a folder of that name is not the run of its configuration, and what to do; None where it is."""
    if _named(config, now) == name:
        return None
    commits = " or ".join(commit.removesuffix("-dirty") for commit in environment.get("commits", [])) or "unknown"
    kept = {**now, **({"numerics_version": 1} if environment else {})}  # version 1 did not say so
    kept |= {fact: environment[fact] for fact in now if type(environment.get(fact)) is type(now[fact])}
    if kept["numerics_version"] != NUMERICS_VERSION:
        reason = f"was trained by version {kept['numerics_version']} of the numerics, this is {NUMERICS_VERSION}"
        return f"{reason}. Train it again, or check out commit {commits}."
    if (expected := _named(config, kept)) != name:
        if environment.get("name") == expected:
            return f"was renamed: it is the run {expected}. Give the folder that name again."
        edited = f"it was edited since, or other code wrote it (commit {commits})"
        advice = "Restore it, or remove it and run the same `harness train` command, which writes it again."
        return f"config.json gives the name {expected}: {edited}. {advice}"
    differing = [fact for fact in now if kept[fact] != now[fact]]
    if device_chosen and "resolved" in differing:
        # a teacher's name holds the device too
        differing = [fact for fact in differing if fact not in ("resolved", "teacher")]
    if not differing:
        return None
    first = differing[0]
    return _REASONS[first].format(then=_short(kept[first]), now=_short(now[first]))


def _named(config: RunConfig, facts: Mapping[str, Any]) -> str:
    return f"{training_digest(config, facts)}-s{config.seed}"


def _short(fact: Any) -> str:
    """A fact in a word or two: the hash of data, the device of what "auto" is."""
    if not isinstance(fact, dict):
        return str(fact)
    known = next((fact[name] for name in ("sha256", "device") if name in fact), None)
    return str(known or ", ".join(f"{name} {value}" for name, value in fact.items()) or "none")


_REASONS = {
    "data": "the data are not those that it was trained on (sha256 {then} then, {now} now). Bring them back, or say "
    "where they lie: --set dataset.path=...",
    "resolved": "was trained on {then}, and train.device means {now} here. Add --set train.device={now} to use it "
    "here, with other random numbers.",
    "sources": "its components' files were edited since ({then} then, {now} now). Bring them back, or train it again.",
    "files": "the files that its noise or coupling reads are not those that it was trained on ({then} then, "
    "{now} now). Bring them back, or say where they lie: --set noise.dataset.path=... or coupling.path=...",
    "pair_sources": "the files of what made its pairs were edited since ({then} then, {now} now). Bring them back, or "
    "train it again.",
    "teacher": "its teacher was the run {then}, and config.json names {now}: somebody edited config.json or the "
    "teacher's files. Restore them.",
}
