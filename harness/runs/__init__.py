"""Single runs: training, sampling, judging, explaining, and their records in MLflow."""
