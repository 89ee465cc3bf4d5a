"""Slurm, Ray and PostgreSQL for tests: each installs what is missing, starts on this machine and leaves nothing behind.

    with Slurm(folder) as slurm:
        slurm.run("srun", "-N2", "hostname")

They listen on free ports, so that two runs at a time work; on 127.0.0.1, or Ray on 127.0.0.2 and the next ones, where
the engine can be told. `stop` ends every process with the folder's path or Ray's token in its command line, environment
or open files: also your own commands that were given `environment`.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import secrets
import shutil
import sys
from pathlib import Path

from cluster import machine
from cluster.machine import Service, ServiceError, free_port, install_packages, kill, kill_all, processes, program
from cluster.slurm import Slurm

__all__ = ["Postgres", "RayCluster", "Service", "ServiceError", "Slurm"]


class RayCluster(Service):
    """A Ray cluster with nodes at 127.0.0.2 (the head), 127.0.0.3, ..., which asks for a token.

    Its raylets and its head listen on every address whatever they are told; at 127.0.0.1 the head would also register
    as the machine's own address.
    """

    def __init__(self, folder: Path, nodes: int = 2, cpus: int = 4) -> None:
        super().__init__(folder)
        self.addresses: list[str] = []
        """Those of the nodes that are up."""
        self._free = itertools.count(2)
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
        own = f"127.0.0.{next(self._free)}"
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
        mark = f"--node_ip_address={self.addresses.pop(i)}"
        raylets = [process for process in processes(str(self.folder), mark) if process.name() == "raylet"]
        assert raylets, f"no raylet has {mark}"
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
