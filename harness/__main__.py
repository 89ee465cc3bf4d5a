# PYTHON_ARGCOMPLETE_OK
"""`python -m harness` does the same as `harness`."""

import gc
import os
import sys

if __name__ == "__main__" and not sys.flags.safe_path:  # `python -m` would import from the working directory
    del sys.path[0]

from typing import NoReturn

from harness.cli import main
from harness.core.errors import guarded, leave
from harness.core.signals import interruptible
from harness.core.streams import steady, unannounce


def run() -> NoReturn:
    """Run the installed command. No process that it starts imports from the working directory."""
    gc.disable()  # until `pass_over`: while libraries are imported, hardly an object goes
    os.environ["PYTHONSAFEPATH"] = "1"
    output = steady()
    interruptible()
    try:
        code = main()
    except SystemExit as ended:  # argparse has said why
        code = int(ended.code or 0)
    except KeyboardInterrupt:  # a second one, while the first is reported
        code = 130
    unannounce()
    leave(code or guarded(output.require_whole))


if __name__ == "__main__":
    run()
