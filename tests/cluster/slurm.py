"""Slurm for tests: a controller, and nodes that a test can end and start again."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil

from cluster import machine
from cluster.machine import Service, ServiceError, free_port, install_packages, kill, kill_all, processes, program

SLURM = """\
ClusterName={cluster}
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
ReturnToService=2
SlurmdTimeout=10
KillWait=5
MinJobAge=300
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=20 MaxTime=INFINITE State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
"""


class Slurm(Service):
    """A Slurm cluster with the nodes n1, n2, ... on this machine, without accounting.

    Jobs of the partition `high` requeue those of `low`, which is the default. Munge has its own key and socket, so a
    munged of the machine or of another run does not matter.
    """

    def __init__(self, folder: Path, nodes: int = 2, cpus: int = 4) -> None:
        super().__init__(folder)
        self.nodes = [f"n{i + 1}" for i in range(nodes)]
        self.cpus = cpus
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self._port = free_port()
        self._cluster = f"test{self._port}"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    @staticmethod
    def install() -> None:
        """Install Slurm and Munge from Debian's packages, unless their programs are there."""
        if not all(map(program, ("munged", "slurmctld", "slurmd", "srun", "sbatch"))):
            install_packages("slurmctld", "slurmd", "slurm-client", "munge")

    def start(self) -> None:
        self.install()
        if os.geteuid() != 0:
            raise ServiceError("Slurm starts jobs only as root: run the cluster tests as root")
        (self.folder / "state").mkdir(parents=True)
        self._write_configuration()
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        paths = {
            "key-file": "munge.key",
            "socket": "munge.socket",
            "pid-file": "munged.pid",
            "seed-file": "munged.seed",
        }
        options = [f"--{name}={self.folder / path}" for name, path in paths.items()]
        self._launch("munged", "--foreground", "--force", *options)  # by force, as only root can enter the folder
        self._wait_until("munged makes its socket", (self.folder / "munge.socket").exists)
        self._launch("slurmctld", "-D")
        for name in self.nodes:
            self._launch("slurmd", "-D", "-N", name, name=name)
        self._wait_until("sinfo shows all nodes idle", lambda: self.states() == dict.fromkeys(self.nodes, "idle"))

    def _write_configuration(self) -> None:
        host = socket.gethostname().partition(".")[0]
        about = f"NodeHostname={host} NodeAddr=127.0.0.1 CPUs={self.cpus} RealMemory=8000 State=UNKNOWN"
        nodes = "\n".join(f"NodeName={name} Port={free_port()} {about}" for name in self.nodes)
        words = {"cluster": self._cluster, "host": host, "folder": self.folder, "port": self._port, "nodes": nodes}
        (self.folder / "slurm.conf").write_text(SLURM.format(**words))

    def _launch(self, what: str, *options: str, name: str = "") -> None:
        path = program(what)
        assert path, what
        with (self.folder / f"{name or what}-said.log").open("ab") as log:
            self._daemons[name or what] = subprocess.Popen(
                [path, *options],
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests: their end stops the service
            )

    def _wait_until(self, what: str, true: Callable[[], bool]) -> None:
        """Wait, at most 30 s, or until a daemon has ended."""

        def unless_ended() -> bool:
            ended = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if ended:
                raise ServiceError(f"{what}: {', '.join(ended)} ended:\n{machine.ends(self.folder)}")
            return true()

        machine.wait_until(what, unless_ended, self.folder)

    def run(self, what: str, *arguments: str) -> str:
        """Return what a command of Slurm printed, like `run("squeue", "-h")`."""
        return machine.run([what, *arguments], self.environment)

    def states(self) -> dict[str, str]:
        """Return {node: its state}, as sinfo says, like idle, mixed, allocated or down*; nothing without slurmctld."""
        try:
            return dict(line.split() for line in self.run("sinfo", "-h", "-N", "-p", "low", "-o", "%N %T").splitlines())
        except ServiceError:
            return {}

    def kill_node(self, name: str, with_jobs: bool) -> None:
        """End a node's slurmd by kill -9; `with_jobs` also its slurmstepd and the processes of its jobs, as a lost
        machine does. Slurm notices after 10 s or more.
        """
        daemon = self._daemons.pop(name)
        steps = self._steps(name) if with_jobs else []
        children = [child for step in steps for child in step.children(recursive=True)]
        daemon.kill()
        daemon.wait()
        if with_jobs:
            kill(steps)  # first: a slurmstepd would report that its job has ended
            kill([*children, *processes(f"SLURM_CLUSTER_NAME={self._cluster}", f"SLURMD_NODENAME={name}")])

    def _steps(self, name: str) -> list[psutil.Process]:
        """Return the processes of slurmstepd on a node: they have its slurmd's log open."""
        log = str(self.folder / f"slurmd-{name}.log")
        found = []
        for process in psutil.process_iter():
            try:
                if process.name() == "slurmstepd" and any(file.path == log for file in process.open_files()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def start_node(self, name: str) -> None:
        """Start a node's slurmd again, and wait until Slurm uses the node."""
        before = self._started(name)
        self._launch("slurmd", "-D", "-N", name, name=name)
        ready = ("idle", "mixed", "allocated", "completing")
        self._wait_until(f"{name} is back", lambda: self._started(name) != before and self.states().get(name) in ready)

    def _started(self, name: str) -> str:
        told = re.search(r"SlurmdStartTime=(\S+)", self.run("scontrol", "show", "node", name))
        return told[1] if told else ""

    def stop(self) -> None:
        daemons = [psutil.Process(daemon.pid) for daemon in self._daemons.values() if daemon.poll() is None]
        kill([*daemons, *(step for name in self.nodes for step in self._steps(name))])
        for daemon in self._daemons.values():
            daemon.wait()
        kill_all(f"SLURM_CLUSTER_NAME={self._cluster}")
        super().stop()
