"""Access: MLflow's pages under other host names, code in the current folder, and passwords of stores."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest

from harness.ablation.design.folder import studies_folder
from harness.ablation.design.study import load_study
from harness.cli.ui import allowed_hosts
from harness.core.errors import ConfigError, UserError, redacted
from harness.runs.mlflow_mirror import Mirror

STRAY = (
    'import os, pathlib; pathlib.Path(os.environ["STRAY"]).open("a").write(__name__ + chr(10))\nraise '
    'SystemExit("a stray module ran")\n'
)
STRAY_NAMES = ("optuna", "mlflow", "uvicorn", "torch", "numpy", "rich", "studies", "sqlalchemy", "argparse", "logging")
"""Modules of libraries, of Python and of the harness: files with these names may lie in the current folder."""
SECRETS = (
    ("postgresql://me:pa55@host:5432/runs", "postgresql://me:***@host:5432/runs"),
    ("mysql+pymysql://me:pa55:w@host/runs failed", "mysql+pymysql://me:***@host/runs failed"),
    ("http://me:pa55@w@host/x?token=pa55&y=1", "http://me:***@host/x?token=***&y=1"),
    ("redis://:pa55@host/0", "redis://:***@host/0"),
    ("first postgresql://a:pa55@h/d then https://c:pa55@e.", "first postgresql://a:***@h/d then https://c:***@e."),
    ("host=h password='pa55 w' user=me", "host=h password=*** user=me"),
    ("DRIVER=x;PWD={pa55;w};UID=me", "DRIVER=x;PWD=***;UID=me"),
)
NOT_SECRET = (
    "http://127.0.0.1:5000",
    "sqlite:////a:b/c",
    "dataset.path: a@b.c is no file",
    "https://host/path?x=1",
    "objective.token=3",
)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder full of files named like modules; each file records that it ran."""
    local = tmp_path / "results" / "local"
    local.mkdir(parents=True)
    for name in STRAY_NAMES:
        (tmp_path / f"{name}.py").write_text(STRAY)
        (local / f"{name}.py").write_text(STRAY)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "scales.py").write_text(STRAY)
    monkeypatch.setenv("STRAY", str(tmp_path / "ran"))
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "results"))
    for name in ("PYTHONSAFEPATH", "PYTHONPATH", "MLFLOW_TRACKING_URI", "HARNESS_STUDIES"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.slow
def test_nothing_runs_from_the_current_folder(elsewhere: Path) -> None:
    """Neither in a command, however it is started, nor in its workers, which run a study of two seconds."""
    (elsewhere / "own.py").write_text(
        "from harness.ablation.design.study import Study\n"
        'STUDY = Study(question="Which?", baseline="low", arms={"low": {}, "high": '
        '{"train.learning_rate": 0.005}}, nfe=2)\n'
    )
    small = [
        "train.steps=4",
        "train.batch_size=32",
        "evaluate.num_samples=20",
        "evaluate.num_reference=40",
        "evaluate.nfe=[2]",
    ]
    settings = [word for change in [*small, 'evaluate.metrics=["sliced_wasserstein"]'] for word in ("--set", change)]
    command = ["ablate", "own.py", "--scale", "points", "--workers", "1", "--seeds", "1", *settings]
    done = subprocess.run(
        [sys.executable, "-m", "harness", *command], cwd=elsewhere, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (elsewhere / "ran").exists(), (elsewhere / "ran").read_text()


def test_studies_come_from_the_checkout_or_the_named_folder(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(elsewhere)
    assert (studies_folder() / "weighting.py").is_file()
    (elsewhere / "mine").mkdir()
    (elsewhere / "mine" / "own.py").write_text(
        'from harness.ablation.design.study import Study\n\nSTUDY = Study(question="?", baseline="a", '
        'arms={"a": {}, "b": {}})\n'
    )
    monkeypatch.setenv("HARNESS_STUDIES", str(elsewhere / "mine"))
    assert load_study("own").question == "?"
    with pytest.raises(UserError, match="'weighting' is not a known study"):
        load_study("weighting")


@pytest.mark.parametrize(
    ("host", "more", "answered", "refused"),
    [
        (
            "127.0.0.1",
            [],
            {"127.0.0.1:80", "localhost:80", "[::1]:80"},
            {"127.0.0.1:81", "0.0.0.0:80", "10.0.0.1:80", "localhost"},
        ),
        ("0.0.0.0", [], {"127.0.0.1:80", f"{socket.gethostname()}:80"}, {"10.evil.com:80", "192.168.evil.com"}),
        (
            "10.1.2.3",
            ["lab.example.org:8080"],
            {"10.1.2.3:80", "lab.example.org:8080"},
            {"localhost:80", "10.1.2.4:80"},
        ),
    ],
)
def test_pages_answer_under_exact_names(host: str, more: list[str], answered: set[str], refused: set[str]) -> None:
    names = allowed_hosts(host, 80, more)
    assert answered <= set(names)
    assert not refused & set(names)
    assert not any("*" in name for name in names), "MLflow would take it as a pattern"


def test_pages_answer_where_nobody_knows_the_name_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Mock(side_effect=socket.gaierror("unknown")))
    monkeypatch.setattr(socket, "getfqdn", lambda: "lab")
    monkeypatch.setattr(socket, "gethostname", lambda: "lab")
    assert allowed_hosts("0.0.0.0", 80, []) == [
        f"{name}:80" for name in ("0.0.0.0", "127.0.0.1", "[::1]", "lab", "localhost")
    ]


@contextmanager
def pages(folder: Path) -> Iterator[int]:
    """Start `harness ui` in a folder; yields its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "harness", "ui", "--port", str(port)]
    with open(folder / "ui.log", "wb") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        patience = time.monotonic() + 300
        while time.monotonic() < patience:
            assert server.poll() is None, (folder / "ui.log").read_text()
            try:
                ask(port, "/health", f"127.0.0.1:{port}")
                break
            except OSError:
                time.sleep(0.1)
        yield port
    finally:
        os.killpg(server.pid, 15)
        server.wait(20)


def ask(port: int, path: str, host: str, method: str = "GET", body: bytes | None = None) -> int:
    """Return the status of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, body, {"Host": host, "Content-Type": "application/json"})
    return connection.getresponse().status


@pytest.mark.slow
def test_pages_refuse_other_names_and_take_no_files(elsewhere: Path) -> None:
    """Under a foreign host name, nothing is read or deleted, and no file can be written; the pages themselves work."""
    experiments = "/api/2.0/mlflow/experiments/search?max_results=5"
    with pages(elsewhere) as port:
        for host in (
            "10.evil.com",
            f"10.evil.com:{port}",
            f"192.168.evil.com:{port}",
            f"localhost.evil.com:{port}",
            "evil.com",
        ):
            assert ask(port, experiments, host) == 403, host
            assert ask(port, "/api/2.0/mlflow/experiments/delete", host, "POST", b'{"experiment_id": "0"}') == 403, host
        for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
            assert ask(port, experiments, host) == 200, host
            assert ask(port, "/", host) == 200, host
            assert ask(port, "/api/2.0/mlflow-artifacts/artifacts/x.txt", host, "PUT", b"x") >= 400, host
    assert not (elsewhere / "ran").exists(), (elsewhere / "ran").read_text()
    assert not [path for path in elsewhere.rglob("*") if path.name in ("mlruns", "mlartifacts", "x.txt")]


def test_passwords_leave_every_text() -> None:
    for text, shown in SECRETS:
        assert redacted(text) == shown
        assert "pa55" not in str(UserError(f"a store: {text}"))
        assert "pa55" not in str(ConfigError("path", text).below("more"))
    for text in NOT_SECRET:
        assert redacted(text) == text


def test_the_password_of_a_store_is_neither_printed_nor_stored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever text the library raises."""
    store = tmp_path / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+nodriver://me:pa55word@127.0.0.1:1/runs")
    with pytest.raises(
        UserError, match=r"MLflow at postgresql\+nodriver://me:\*\*\*@127.0.0.1:1/runs cannot be reached"
    ) as refused:
        Mirror("train")
    assert "pa55word" not in str(refused.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    mirror = Mirror("train")
    mirror.uri = f"postgresql://me:pa55word@host/{store.name}"
    mirror.record(tmp_path, "a run", {}, {})
    kept = [path.read_text() for path in tmp_path.glob("tracking/*.json")]
    assert kept
    assert not any("pa55word" in text for text in kept)


def test_a_relative_store_belongs_to_the_current_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`harness ui` serves from another folder."""
    from harness.runs.mlflow_store import default_uri

    monkeypatch.chdir(tmp_path)
    for given, meant in (
        ("sqlite:///own.db", f"sqlite:///{tmp_path}/own.db"),
        ("mlruns", f"{tmp_path}/mlruns"),
        ("file:runs", f"{tmp_path}/runs"),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
        assert default_uri() == meant
    for absolute in (
        "http://127.0.0.1:5000",
        f"sqlite:///{tmp_path}/x.db",
        f"file://{tmp_path}/mlruns",
        "postgresql://h/d",
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", absolute)
        assert default_uri() == absolute
