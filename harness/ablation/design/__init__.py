"""Plans of what to run: studies, searches, rounds of reflow, and sweeps."""
