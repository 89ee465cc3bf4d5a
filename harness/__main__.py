"""`python -m harness` is `harness`."""

from typing import NoReturn

from harness.cli import main
from harness.errors import leave


def run() -> NoReturn:
    """The command that is installed."""
    leave(main())


if __name__ == "__main__":
    run()
