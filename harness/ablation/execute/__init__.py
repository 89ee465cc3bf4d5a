"""Execution of plans: shared trials, workers that may die, and their placement on a machine."""
