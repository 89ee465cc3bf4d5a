"""torchrun that ends in a one-line message, as the harness does, instead of a traceback:

    python -m harness.training.torchrun --nproc-per-node 2 -m harness train ...

A stop signal goes to every rank, and the first rank reports it. An error that a rank reported is not repeated.
"""

from __future__ import annotations

import logging
import signal
import sys

if __name__ == "__main__" and not sys.flags.safe_path:  # `python -m` would import from the working directory
    del sys.path[0]

from harness.core.errors import UserError, guarded, leave, stopped
from harness.core.signals import interruptible
from harness.core.streams import steady


def main() -> int:
    """Run the ranks and return their exit code: 0, 2 after a user's mistake, 130 when stopped."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig
    from torch.distributed.run import main as torchrun

    logging.disable(logging.ERROR)  # of this process, which repeats the messages of the ranks
    options = []
    if hasattr(LaunchConfig, "signals_to_handle"):
        hangup = "" if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else ",SIGHUP"  # nohup ignores it
        options = ["--signals-to-handle", f"SIGTERM,SIGUSR1,SIGINT,SIGQUIT{hangup}"]
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
