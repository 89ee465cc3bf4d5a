"""The foundations: configurations, the registry, errors, random streams, files, checkpoints, provenance."""
