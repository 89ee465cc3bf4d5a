"""Tests that `mine` keeps the promises of its family."""

from pathlib import Path

import pytest

from harness.core.registry import Component, load_plugin, members_of
from harness.testing import promises

COMPONENTS = members_of(load_plugin(Path(__file__).with_name("mine.py")))


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_every_promise_is_kept(component: Component) -> None:
    """Add a test of what only your component promises, such as a known value."""
    assert [promise for promise, kept in promises(component) if not kept] == []
