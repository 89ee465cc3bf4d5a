"""Ray: the trials of a plan are plain tasks with resources and retries.

An actor on the cluster, named after the plan, owns the tasks. So they go on when the command ends, and the same command
finds them again. Ray starts the tasks of a lost node elsewhere. A task runs the command of the trial as a process of
its own, which `cancel` asks to save and end.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.ablation.execute import ray_tasks
from harness.ablation.execute.launchers import Launcher
from harness.core.errors import UserError
from harness.core.reading import say_once
from harness.core.signals import given_back

NAMESPACE = "harness"
HEAD = "node:__internal_head__"
"""Ray's resource of the head node, without which the cluster ends: it keeps the owner of the tasks."""
ANSWER_S = 60.0
"""Seconds that the cluster may take to answer."""
LOST_S = 600.0
"""Seconds without an answer after which the cluster is given up."""
FORWARDED = ("HARNESS_", "HF_", "CUBLAS_")
"""Beginnings of the environment variables that trials get from the command."""
AMOUNTS = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
"""Ray's names of resources: as an option, and as a part of a node. All others are the user's own."""


class Ray(Launcher, name="ray"):
    """Tasks on the cluster at RAY_ADDRESS; `on` are resources of a trial, like `num_gpus=0.5 num_cpus=4`."""

    def __init__(self, plan: Path, name: str, on: str, jobs: int | None):
        super().__init__(plan, name, on, jobs)
        self.resources = _resources(on)
        self.ray = _connected()
        _require_node(self.resources, self.ray.nodes())
        self.owner = self._owner()
        self._last: set[int] = set()
        self._answered = time.monotonic()

    def _owner(self) -> Any:
        """Return the owner of the plan's tasks, which all commands share; a new one if there is none."""
        lasts = {"max_restarts": -1, "max_task_retries": -1, "resources": {HEAD: 0.001}}
        owner = self.ray.remote(num_cpus=0, **lasts)(ray_tasks.Owner)
        lasting = {"name": self.name, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
        return owner.options(**lasting).remote()

    def submit(self, numbers: Sequence[int]) -> None:
        self.log(0).parent.mkdir(exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if name.startswith(FORWARDED)}
        trials = {number: (self.command(number), str(self.log(number))) for number in numbers}
        self._ask("submit", trials, _options(self.resources), self.jobs, os.getcwd(), environment)
        self._last |= {*numbers}

    def alive(self) -> set[int]:
        """Return the trials whose tasks have not ended; those of the last answer while Ray does not answer."""
        found = self._ask("alive")
        self._last = self._last if found is None else found
        return {*self._last}

    def cancel(self) -> None:
        self._ask("cancel")

    def _ask(self, what: str, *given: Any) -> Any:
        """Return the owner's answer; None if Ray does not answer. `UserError` if it has not for `LOST_S`."""
        try:
            answer = self.ray.get(getattr(self.owner, what).remote(*given), timeout=ANSWER_S)
        except self.ray.exceptions.ActorDiedError:  # another command has ended it with its last task
            self.owner = self._owner()
            return self._ask(what, *given)
        except self.ray.exceptions.RayError as error:
            if time.monotonic() - self._answered > LOST_S:
                raise UserError(
                    f"--launcher ray: the cluster has not answered for {LOST_S / 60:.0f} minutes. Trials that run save "
                    "themselves; the same command continues."
                ) from None
            return say_once(f"Ray does not answer ({type(error).__name__}). The trials go on without it.")
        self._answered = time.monotonic()
        return answer

    def leave(self, stopped: bool) -> None:
        """Disconnect from Ray, and end the owner of the tasks once it has none."""
        if not self.ray.is_initialized():
            return
        super().leave(stopped)
        if not self.alive():
            self.ray.kill(self.owner)
        self.ray.shutdown()


def _connected() -> Any:
    """Return the module `ray`, connected to the cluster; `UserError` if it is missing, unsafe or away."""
    try:
        import ray
        import ray.exceptions
    except ImportError:
        advice = "Install it here and on the nodes: pip install ray."
        raise UserError(f"--launcher ray: Ray is not installed. {advice}") from None
    if os.environ.get("RAY_AUTH_MODE") != "token":
        raise UserError(
            "--launcher ray: RAY_AUTH_MODE is not token, so whoever reaches the cluster could run programs there. Set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here and wherever `ray start` runs."
        )
    try:
        with given_back():  # Ray installs a handler of its own for SIGTERM
            address = os.environ.get("RAY_ADDRESS", "auto")
            ray.init(address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises many kinds
        said = " ".join(str(error).split())[:300]
        raise UserError(
            f"--launcher ray: no connection to the cluster ({said}). Set RAY_ADDRESS to what `ray start` printed."
        ) from None
    return ray


def _resources(on: str) -> dict[str, float]:
    """Return {resource: amount} of words like `num_gpus=0.5`."""
    found = {}
    for word in on.split():
        name, _, amount = word.partition("=")
        try:
            found[name] = float(amount)
        except ValueError:
            raise UserError(f"--on: '{word}' is not a resource with an amount. Write it like num_gpus=0.5.") from None
    return found


def _options(resources: Mapping[str, float]) -> dict[str, Any]:
    """Return Ray's options of a task with these resources."""
    own = {name: amount for name, amount in resources.items() if name not in AMOUNTS}
    return {**{name: resources[name] for name in resources.keys() & AMOUNTS}, **({"resources": own} if own else {})}


def _require_node(resources: Mapping[str, float], nodes: Sequence[Mapping[str, Any]]) -> None:
    """Raise `UserError` unless a node has these resources: Ray would wait for one without end."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    if not any(all(node.get(AMOUNTS.get(n, n), 0) >= amount for n, amount in resources.items()) for node in alive):
        asked = " ".join(f"{name}={amount:g}" for name, amount in resources.items())
        raise UserError(f"--on: no node of the Ray cluster has {asked}. Ask for less, or add such a node.")
