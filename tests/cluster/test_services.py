"""The services of the cluster tests themselves: they start, lose a node, come back, and end."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import sqlalchemy
from sqlalchemy.exc import OperationalError

from cluster import machine
from cluster.machine import ServiceError, processes
from cluster.services import Postgres, RayCluster, Service, Slurm

TASKS = """
import sys, time, ray
from ray.util import get_node_ip_address
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
end = time.monotonic() + 60
while (there := {node["NodeName"] for node in ray.nodes() if node["Alive"]}) != {*sys.argv[2:]}:
    assert time.monotonic() < end, there
    time.sleep(0.1)
nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
where = ray.remote(get_node_ip_address)
print(*sorted(ray.get([where.options(scheduling_strategy=On(node, soft=False)).remote() for node in nodes])))
"""


@pytest.fixture
def sleeper(slurm: Slurm, tmp_path: Path) -> Callable[[str], psutil.Process]:
    """`sleeper(node)` starts a job there, and returns its process, which writes no file and would run for an hour."""

    def start(node: str) -> psutil.Process:
        told = tmp_path / "pid"
        slurm.run("sbatch", "-w", node, "-o", "/dev/null", "--wrap", f"srun sh -c 'echo $$ >{told}; exec sleep 3600'")
        machine.wait_until("the job has started", lambda: told.exists() and told.read_text() != "", slurm.folder)
        return psutil.Process(int(told.read_text()))

    return start


def test_slurm_runs_a_step_on_both_nodes(slurm: Slurm) -> None:
    said = slurm.run("srun", "-N2", "sh", "-c", "echo $SLURMD_NODENAME $(hostname)")
    assert sorted(said.split()) == sorted([*slurm.nodes, *2 * [socket.gethostname()]])


def test_slurm_runs_an_array(slurm: Slurm, tmp_path: Path) -> None:
    slurm.run("sbatch", "--wait", "--array=0-3", "-o", f"{tmp_path}/%a", "--wrap", "echo $SLURM_ARRAY_TASK_ID")
    assert [(tmp_path / str(i)).read_text() for i in range(4)] == ["0\n", "1\n", "2\n", "3\n"]


def test_slurm_listens_on_loopback_alone(slurm: Slurm) -> None:
    assert listening(slurm) == {"127.0.0.1"}


@pytest.mark.parametrize("with_jobs", [False, True])
def test_a_node_of_slurm_is_lost_and_comes_back(
    slurm: Slurm, sleeper: Callable[[str], psutil.Process], with_jobs: bool
) -> None:
    job = sleeper("n2")
    slurm.kill_node("n2", with_jobs=with_jobs)
    assert job.is_running() is not with_jobs
    slurm.start_node("n2")
    assert job.is_running() is not with_jobs
    slurm.run("scancel", "--user=root", "--full")
    assert slurm.run("srun", "-w", "n2", "hostname").strip() == socket.gethostname()
    machine.wait_until("both nodes are idle", lambda: set(slurm.states().values()) == {"idle"}, slurm.folder)


def test_slurm_leaves_no_process_behind(tmp_path: Path) -> None:
    """Jobs end too. And two clusters run at a time, as `slurm` of the other tests does."""
    with Slurm(tmp_path / "own", nodes=1, cpus=2) as own:
        own.run("sbatch", "-o", "/dev/null", "--wrap", "srun sleep 3601")
        machine.wait_until("the job has started", lambda: processes(str(tmp_path), "3601") != [], own.folder)
    assert processes(str(tmp_path)) == []


def test_a_service_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.slurm.SLURM", "Nonsense=1\n")
    with pytest.raises(ServiceError, match=r"(?s)ended.*Nonsense"), Slurm(tmp_path / "own"):
        pass
    assert processes(str(tmp_path)) == []


def asked(cluster: RayCluster, environment: dict[str, str], *nodes: str) -> list[str]:
    """Return the addresses that one task on each node tells, once `nodes` are there and no others."""
    said = machine.run([sys.executable, "-c", TASKS, cluster.address, *nodes], environment)
    return said.splitlines()[-1].split()  # Ray tells there too that it lost a node


def test_ray_runs_a_task_on_each_node(ray_cluster: RayCluster) -> None:
    assert len({*ray_cluster.addresses}) == 2
    assert asked(ray_cluster, ray_cluster.environment, *ray_cluster.addresses) == ray_cluster.addresses


def test_ray_refuses_another_token(ray_cluster: RayCluster) -> None:
    other = ray_cluster.environment | {"RAY_AUTH_TOKEN": "0" * 64}
    with pytest.raises(ServiceError, match=r"(?i)token"):
        asked(ray_cluster, other)


def test_a_node_of_ray_is_lost_and_another_comes(ray_cluster: RayCluster) -> None:
    lost = ray_cluster.addresses[1]
    ray_cluster.kill_node(1)
    ray_cluster.start_node()
    head, new = ray_cluster.addresses
    assert new != lost
    assert asked(ray_cluster, ray_cluster.environment, head, new) == [head, new]


def test_postgres_keeps_its_data_while_it_is_stopped(postgres: Postgres) -> None:
    engine = sqlalchemy.create_engine(postgres.url("services"))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE kept AS SELECT 7 AS value"))
    postgres.stop_server()
    with pytest.raises(OperationalError), engine.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT 1"))
    postgres.start_server()
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT value FROM kept")).scalar() == 7
    assert postgres.url("services") == engine.url.render_as_string(hide_password=False)
    assert listening(postgres) == {"127.0.0.1"}


def test_postgres_refuses_another_password(postgres: Postgres) -> None:
    engine = sqlalchemy.create_engine(postgres.url("services").replace(postgres.password, "wrong"))
    with pytest.raises(OperationalError, match="password authentication failed"):
        engine.connect()


def listening(service: Service) -> set[str]:
    """Return the addresses at which the processes of a service listen."""
    return {
        connection.laddr.ip
        for process in processes(str(service.folder))
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
