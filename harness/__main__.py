"""`python -m harness` is `harness`."""

import os
import sys

if __name__ == "__main__" and not sys.flags.safe_path:  # `python -m` would import from the folder one stands in
    del sys.path[0]

from typing import NoReturn

from harness.cli import main
from harness.core.errors import leave


def run() -> NoReturn:
    """The command that is installed. No process that it starts imports from the folder one stands in."""
    os.environ["PYTHONSAFEPATH"] = "1"
    leave(main())


if __name__ == "__main__":
    run()
