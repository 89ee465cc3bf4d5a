"""What every component promises, to be tried on your own: `harness check`, or `promises(component)` in your tests."""

from harness.testing.contract import promises

__all__ = ["promises"]
