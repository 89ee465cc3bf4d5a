"""`harness ui`: serves MLflow's pages, by default only to this machine."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import tempfile
from collections.abc import Iterable

from harness.core.errors import UserError
from harness.runs.mlflow_mirror import close_dead
from harness.runs.mlflow_pages import pages
from harness.runs.mlflow_store import artifacts, connect, default_uri, for_mlflow

HERE = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = ("0.0.0.0", "::")


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
        *("--no-serve-artifacts", "--default-artifact-root", artifacts().as_uri()),
    ]
    # no argument, since every user of the machine can read the arguments of a process
    os.environ["MLFLOW_BACKEND_STORE_URI"] = for_mlflow(uri)
    address = f"http://{options.host}:{options.port}"
    for experiment in client.search_experiments(order_by=["last_update_time ASC"]):
        if client.search_runs([experiment.experiment_id], max_results=1):
            print(experiment.name)
            for name, page in pages(experiment.experiment_id, experiment.tags).items():
                print(f"  {name}: {address}/{page}")
    print(f"{address} (Ctrl-C ends it)", flush=True)
    os.chdir(tempfile.mkdtemp(prefix="harness-ui-"))  # uvicorn imports from the working directory
    os.execv(sys.executable, [sys.executable, "-P", "-m", "mlflow", "server", *arguments])


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
