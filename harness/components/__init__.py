"""What an ablation swaps, one family a module or package."""
