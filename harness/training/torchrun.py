"""torchrun that ends in a line, as the harness does, and not in a traceback of its own:

    python -m harness.training.torchrun --nproc-per-node 2 -m harness train ...

A stop goes to every rank, and the first says it. An error that a rank has told is not told again.
"""

from __future__ import annotations

import logging
import signal
import sys

if __name__ == "__main__" and not sys.flags.safe_path:  # `python -m` would import from the folder one stands in
    del sys.path[0]

from harness.core.errors import UserError, guarded, leave, stopped
from harness.core.signals import interruptible
from harness.core.streams import steady


def main() -> int:
    """The exit code of the ranks: 0, 2 after a user's mistake, 130 when stopped."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig
    from torch.distributed.run import main as torchrun

    logging.disable(logging.ERROR)  # of this process, which repeats what the ranks have told
    options = []
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN and hasattr(LaunchConfig, "signals_to_handle"):
        options = ["--signals-to-handle", "SIGTERM,SIGINT,SIGQUIT"]  # by nohup
    try:
        torchrun([*options, *sys.argv[1:]])
    except SignalException:
        return 130
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else guarded(lambda: _tell_killed(-failure.exitcode))
    return 0


def _tell_killed(number: int) -> None:
    raise UserError(f"a rank was killed by {signal.Signals(number).name}. The same command continues.")


if __name__ == "__main__":
    steady()
    interruptible()
    try:
        code = main()
    except KeyboardInterrupt:  # before torchrun listens
        code = stopped()
    leave(code)
