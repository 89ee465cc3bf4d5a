"""What came out: outcomes, statistics, verdicts, tables and figures."""
