"""What will be run: studies, searches, rounds and sweeps as plans."""
