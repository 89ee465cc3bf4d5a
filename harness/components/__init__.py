"""The components that an ablation swaps; one family per module or package."""
