"""What everything stands on: configurations, the registry, errors, random streams, files, checkpoints, provenance."""
