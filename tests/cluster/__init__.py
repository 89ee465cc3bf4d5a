"""Tests on Slurm, Ray and PostgreSQL. A package, so that `import conftest` in other tests never means the one here."""
