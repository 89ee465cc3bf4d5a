"""What every component promises, to be tried on your own: `harness check`, or `promises(component)` in your tests."""
