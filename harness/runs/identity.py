"""A run's name covers everything that its training depends on; a folder whose content does not fit is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.config import digest, override, to_dict
from harness.core.errors import ConfigError, UserError
from harness.core.provenance import named
from harness.core.registry import sources
from harness.data.base import load

if TYPE_CHECKING:
    from harness.runs.config import RunConfig

NUMERICS_VERSION = 3
"""Version of the training code; raise it by hand when a change alters the results of the same configuration.

2: held-out samples are drawn by class, no longer at equal distances; evenly spaced rows are exact. Cells are normalised
over all genes of their folder, and ties in variability no longer select more genes than requested. The held-out loss,
which selects the best checkpoint, uses the true classes; looks change no buffers.
3: a weighting that its paper states for the error of one quantity is converted to the measured error, and `sigmoid` has
the factor -d lambda / dt. On an error that is not the data's, `min_snr` behaved like today's `clipped_snr`.
"""

FACTS = ("numerics_version", "data", "resolved", "sources", "files", "pair_sources", "teacher")
"""Facts that a run's name covers besides its configuration; only a run with a teacher has the last two."""


def facts_of(config: RunConfig) -> dict[str, Any]:
    """Return what a name covers besides the configuration: code, data, and the values of "auto" on this machine.

    A run stores it in environment.json.
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
    if perceptual := config.perceptual:  # `loss` is not used
        facts["sources"] = {name: value for name, value in facts["sources"].items() if not name.startswith("loss.")}
        facts["sources"] |= sources(perceptual)
        facts["files"] |= perceptual.fingerprint()
    if config.parent is not None:
        facts["pair_sources"] = sources(dataclasses.replace(config.reflow, teacher=None, perceptual=None))
        facts["teacher"] = training_digest(config.parent)
    return facts


def training_digest(config: RunConfig, facts: Mapping[str, Any] | None = None) -> str:
    """Return 12 hex digits over everything that the trained weights depend on, except the seed.

    `facts` replace the facts of this machine and this code. The device is included: the random streams of a CPU and a
    GPU differ.
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
    if config.perceptual:
        del identity["loss"], identity["objective"]["space"]
        identity["perceptual"] = to_dict(config.perceptual, digested=True)
    return digest({**identity, **{name: facts[name] for name in ("data", "files", "sources", "numerics_version")}})


def pairs_digest(config: RunConfig) -> str:
    """Return 12 hex digits over everything that the pairs of a run depend on, except the seed."""
    return digest(_pairs(config, facts_of(config)))


def _pairs(config: RunConfig, facts: Mapping[str, Any]) -> dict[str, Any]:
    making = to_dict(config.pairs_sampling, digested=True)
    for name in ("rounds", "distil", "perceptual", "teacher", "warm_start", "later_guidance"):
        making.pop(name, None)
    return {
        **making,
        "teacher": facts["teacher"],
        "sources": facts["pair_sources"],
    }


def changed(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """Return a finished run's configuration with changes of `evaluate` and of settings that its name does not cover.

    `UserError` for other changes.
    """
    new = override(config, {**changes, **_of_teachers(config, changes)})
    if _learned(new) != _learned(config):
        possible = leaving_the_name(config, changes)
        path = next(path for path in changes if path not in possible and not path.startswith("evaluate."))
        raise UserError(f"{path}: cannot be changed after training. Change evaluate.*, or train another run.")
    return new


def leaving_the_name(config: RunConfig, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes outside `evaluate` that keep the run's name, such as the device or the path of the data."""
    out = {}
    for path, value in changes.items():
        try:
            same = _learned(override(config, {path: value, **_of_teachers(config, {path: value})})) == _learned(config)
        except ConfigError:  # the change may be valid only together with others
            same = False
        if same and not path.startswith("evaluate."):
            out[path] = value
    return out


def on_device(config: RunConfig, device: str) -> RunConfig:
    """Return the configuration with this device, also in its teachers: their names depend on it."""
    change = {"train.device": device}
    return override(config, {**change, **_of_teachers(config, change)})


def _learned(config: RunConfig) -> dict[str, Any]:
    return {name: value for name, value in to_dict(config, digested=True).items() if name != "evaluate"}


def _of_teachers(config: RunConfig, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same changes for the teachers in a configuration: they use the same data and device."""
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
    """Raise `UserError` with the reason if a folder is not the run of its configuration, or its data are not found.

    `environment` is the content of its environment.json. If the user chose the device (`device_chosen`), a run of
    another device is accepted.
    """
    try:
        now = facts_of(config)
    except ConfigError as error:
        where = f" Or pass its new path: --set {error.path}=..." if error.path.endswith("path") else ""
        raise UserError(f"{error}{where}") from None
    if reason := _misnamed(config, folder.name, environment, now, device_chosen):
        raise UserError(f"{folder}: {reason}")


def _misnamed(
    config: RunConfig, name: str, environment: Mapping[str, Any], now: dict[str, Any], device_chosen: bool
) -> str | None:
    """Return why a folder of this name is not the run of its configuration, and what to do; None if it is."""
    if _named(config, now) == name:
        return None
    code = named([state.removesuffix("-dirty") for state in environment.get("commits") or ["unknown"]], " or ")
    kept = {**now, **({"numerics_version": 1} if environment else {})}  # version 1 did not store its number
    kept |= {fact: environment[fact] for fact in now if type(environment.get(fact)) is type(now[fact])}
    if kept["numerics_version"] != NUMERICS_VERSION:
        reason = f"was trained with numerics version {kept['numerics_version']}, this code has {NUMERICS_VERSION}"
        return f"{reason}. Train it again, or use the code of {code}."
    if (expected := _named(config, kept)) != name:
        if environment.get("name") == expected:
            return f"was renamed: it is the run {expected}. Give the folder that name again."
        edited = f"it was edited, or other code wrote it ({code})"
        advice = "Restore it, or remove it and run the same `harness train` command, which writes it again."
        return f"config.json gives the name {expected}: {edited}. {advice}"
    differing = [fact for fact in now if kept[fact] != now[fact]]
    if device_chosen and "resolved" in differing:
        # a teacher's name depends on the device too
        differing = [fact for fact in differing if fact not in ("resolved", "teacher")]
    if not differing:
        return None
    first = differing[0]
    return _REASONS[first].format(then=_short(kept[first]), now=_short(now[first]))


def _named(config: RunConfig, facts: Mapping[str, Any]) -> str:
    return f"{training_digest(config, facts)}-s{config.seed}"


def _short(fact: Any) -> str:
    """Return a fact in a word or two: the hash of the data, or the device that "auto" is."""
    if not isinstance(fact, dict):
        return str(fact)
    known = next((fact[name] for name in ("sha256", "device") if name in fact), None)
    return str(known or ", ".join(f"{name} {value}" for name, value in fact.items()) or "none")


_REASONS = {
    "data": "it was trained on other data (sha256 {then} then, {now} now). Restore the data, or pass their path: "
    "--set dataset.path=...",
    "resolved": "was trained on {then}, and train.device means {now} here. Add --set train.device={now} to use it "
    "here, with other random numbers.",
    "sources": "its components' files were edited ({then} then, {now} now). Restore them, or train it again.",
    "files": "its noise, coupling or perceptual loss had other files ({then} then, {now} now). Restore the files, or "
    "pass their path: --set noise.dataset.path=..., --set coupling.path=..., or set HARNESS_LPIPS.",
    "pair_sources": "the files of the components that made its pairs were edited ({then} then, {now} now). Restore "
    "them, or train it again.",
    "teacher": "its teacher was the run {then}, but config.json names {now}: somebody edited config.json or the "
    "teacher's files. Restore them.",
}
