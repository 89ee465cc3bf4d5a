"""`harness ui`: serves MLflow's pages, by default only to this machine."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence

from harness.core.errors import UserError
from harness.runs.mlflow_mirror import close_dead
from harness.runs.mlflow_pages import links
from harness.runs.mlflow_store import artifacts, connect, default_uri, for_mlflow

HERE = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = ("0.0.0.0", "::")
QUIET = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # processes for pages that are not used here
    "PYTHONWARNINGS": "ignore",
}
"""{variable: value} for the server, unless the user has set it."""


def run(options: argparse.Namespace) -> None:
    """Serve MLflow's pages until Ctrl-C."""
    uri = default_uri()
    if uri.startswith("http"):
        raise UserError(f"MLFLOW_TRACKING_URI: {uri} is a server that has pages. Open it in a browser.")
    _require_free(options.host, options.port)
    client = connect(uri)
    close_dead(client)
    arguments = [
        *("--host", options.host, "--port", str(options.port), "--workers", "1"),
        *("--allowed-hosts", ",".join(allowed_hosts(options.host, options.port, options.allow_host))),
        *("--uvicorn-opts", "--log-level warning"),
        *("--no-serve-artifacts", "--default-artifact-root", artifacts().as_uri()),
    ]
    # no argument, since every user of the machine can read the arguments of a process
    os.environ["MLFLOW_BACKEND_STORE_URI"] = for_mlflow(uri)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    address = f"http://{options.host}:{options.port}"
    lines = [*links(client, address), f"{address} (Ctrl-C ends it)"]
    print(f"starting MLflow on {address} ...", flush=True)
    if os.fork() == 0:
        try:
            print_once_it_answers(lines, options.host, options.port, os.getppid())
        finally:
            os._exit(0)
    os.chdir(tempfile.mkdtemp(prefix="harness-ui-"))  # uvicorn imports from the working directory
    os.execv(sys.executable, [sys.executable, "-P", "-m", "mlflow", "server", *arguments])


def print_once_it_answers(lines: Sequence[str], host: str, port: int, server: int) -> None:
    """Print the lines as soon as the parent process `server` answers; print nothing if it ends before."""
    while os.getppid() == server:
        with contextlib.suppress(OSError), socket.create_connection((HERE[0] if host in EVERYWHERE else host, port), 1):
            print(*lines, sep="\n", flush=True)
            return
        time.sleep(0.2)


def _require_free(host: str, port: int) -> None:
    """`UserError` if the address is taken or cannot be used."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            advice = "Choose another, like --port 5001."
            raise UserError(f"--port: {host}:{port} cannot be used ({reason}). {advice}") from None


def allowed_hosts(host: str, port: int, more: Iterable[str]) -> list[str]:
    """Return the `Host` headers that the server accepts.

    MLflow's default patterns accept `10.evil.com`, to which a malicious page can lead a browser.
    """
    names = {host}
    if host in HERE:
        names |= {*HERE}
    elif host in EVERYWHERE:
        names |= {*HERE, socket.gethostname(), socket.getfqdn(), *_addresses()}
    exact = [f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name in sorted(names)]
    return [*exact, *more]


def _addresses() -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(socket.gethostname(), None)}
    except OSError:  # the name of the machine does not resolve
        return set()
