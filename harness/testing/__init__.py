"""The contract of components. Try it on yours by `harness check`, or by `promises(component)` in your tests."""

from harness.testing.contract import promises

__all__ = ["promises"]
