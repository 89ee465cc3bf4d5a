"""How a plan is carried out: shared trials, workers that may die, and their places on a machine."""
