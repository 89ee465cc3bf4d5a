"""Worker process: `python -m harness.ablation.execute PLAN LAUNCHER`."""

from harness.core.errors import guarded, leave
from harness.core.signals import interruptible
from harness.core.streams import steady


def main() -> None:
    """Run the worker. The slow imports are here, so that a stop during them prints one line and no traceback."""
    from harness.ablation.execute import worker

    worker.main()


if __name__ == "__main__":
    steady()
    interruptible()
    leave(guarded(main))
