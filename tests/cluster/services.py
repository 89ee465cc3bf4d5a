"""Slurm, Ray and PostgreSQL for tests: each installs what is missing, starts on this machine and leaves nothing behind.

    with Slurm(folder) as slurm:
        slurm.run("srun", "-N2", "hostname")

They listen on free ports, so that two runs at a time work; on 127.0.0.1, or Ray on 127.0.0.2 and the next ones, where
the engine can be told. `stop` ends every process with the folder's path or Ray's token in its command line, environment
or open files: also your own commands that were given `environment`.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Self

import psutil
from cluster import machine
from cluster.machine import ServiceError, free_port, install_packages, kill, kill_all, processes, program


class Service:
    """What `with` needs: a service starts at its beginning, and ends at its end or when the start fails."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Install what is missing, start all processes, and return when the service answers."""
        raise NotImplementedError

    def stop(self) -> None:
        """End all processes of the service."""
        kill_all(str(self.folder))


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


class RayCluster(Service):
    """A Ray cluster with nodes at 127.0.0.2 (the head), 127.0.0.3, ..., which asks for a token.

    Its raylets and its head listen on every address whatever they are told; at 127.0.0.1 the head would also register
    as the machine's own address.
    """

    def __init__(self, folder: Path, nodes: int = 2, cpus: int = 4) -> None:
        super().__init__(folder)
        self.addresses: list[str] = []
        self.cpus = cpus
        self.address = f"127.0.0.2:{free_port()}"
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._first = nodes

    @staticmethod
    def install() -> None:
        """Say how to install Ray if it is missing."""
        if importlib.util.find_spec("ray") is None:
            raise ServiceError("Ray is not installed: run the tests by `make test-cluster`, which installs it")

    def start(self) -> None:
        self.install()
        for _ in range(self._first):
            self.start_node()

    def start_node(self) -> None:
        """Start one more node; the first is the head."""
        own = f"127.0.0.{len(self.addresses) + 2}"
        port = self.address.rpartition(":")[2]
        head = [f"--port={port}", f"--temp-dir={self.folder}"]
        where = [f"--address={self.address}"] if self.addresses else ["--head", "--include-dashboard=false", *head]
        more = [f"--num-cpus={self.cpus}", "--object-store-memory=80000000", "--disable-usage-stats"]
        ports = [f"--dashboard-agent-listen-port={free_port()}"]
        ray = [str(Path(sys.executable).parent / "ray"), "start", *where, f"--node-ip-address={own}", *more, *ports]
        machine.run(ray, self.environment)
        self.addresses.append(own)

    def kill_node(self, i: int) -> None:
        """End the raylet of a node by kill -9, and not its workers. Ray notices after about 15 s."""
        mark = f"--node_ip_address={self.addresses[i]}"
        raylets = [process for process in processes(str(self.folder), mark) if process.name() == "raylet"]
        assert raylets, f"node {i} has no raylet"
        kill(raylets)

    def stop(self) -> None:
        kill_all(self.environment["RAY_AUTH_TOKEN"])
        super().stop()


class Postgres(Service):
    """A PostgreSQL server with its data in `folder`, which the user `postgres` must be able to reach."""

    USER = "fm"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.password = secrets.token_hex(16)
        self._made: set[str] = set()

    @staticmethod
    def install() -> None:
        """Install PostgreSQL from Debian's packages, unless it is there."""
        if not Postgres._program("initdb"):
            install_packages("postgresql")

    @staticmethod
    def _program(name: str) -> str | None:
        versions = Path("/usr/lib/postgresql").glob("*/bin")
        return program(name, *sorted(versions, key=lambda path: int(path.parent.name), reverse=True))

    def start(self) -> None:
        self.install()
        self.folder.mkdir(parents=True, exist_ok=True)
        secret = self.folder / "password"
        secret.touch(0o600)
        secret.write_text(self.password)
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            self._own(self.folder)
            self._own(secret)
        checked = ["-A", "scram-sha-256", f"--pwfile={secret}", "-U", self.USER]
        self._run("initdb", "-D", self._data, *checked, "--no-sync", "-E", "UTF8", "--locale=C")
        where = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": self.folder}
        with (self.folder / "data" / "postgresql.conf").open("a") as settings:
            settings.writelines(f"{name} = '{value}'\n" for name, value in where.items())
        self.start_server()

    @staticmethod
    def _own(path: Path) -> None:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            machine.run(["useradd", "--system", "--user-group", "--no-create-home", "postgres"])
        shutil.chown(path, "postgres")

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def _run(self, what: str, *arguments: str) -> str:
        path = self._program(what)
        assert path, what
        other = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        return machine.run([*other, path, *arguments], {"PGPASSWORD": self.password}, cwd=self.folder)

    def start_server(self) -> None:
        """Start the server, and wait until it answers."""
        try:
            self._run("pg_ctl", "-D", self._data, "-w", "-t", "60", "-l", str(self.folder / "server.log"), "start")
        except ServiceError as error:
            raise ServiceError(f"{error}\n{machine.ends(self.folder)}") from None

    def stop_server(self) -> None:
        """Stop the server, which ends its connections; the data stay."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", "fast", "stop")

    def url(self, database: str) -> str:
        """Return the address of a database for SQLAlchemy; make the database on the first call."""
        if database not in self._made:
            self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", self.USER, database)
            self._made.add(database)
        return f"postgresql+psycopg://{self.USER}:{self.password}@127.0.0.1:{self.port}/{database}"
