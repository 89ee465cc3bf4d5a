"""`python -m harness.ablation.execute PLAN LAUNCHER` is a worker process."""

from harness.core.errors import guarded, leave
from harness.core.signals import interruptible
from harness.core.streams import steady


def main() -> None:
    """Work; what takes seconds to import is imported here, where a stop is told in a line."""
    from harness.ablation.execute import worker

    worker.main()


if __name__ == "__main__":
    steady()
    interruptible()
    leave(guarded(main))
