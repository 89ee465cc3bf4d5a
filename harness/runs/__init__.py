"""Single runs and their lives: trained, sampled, judged, explained, and mirrored to MLflow."""
