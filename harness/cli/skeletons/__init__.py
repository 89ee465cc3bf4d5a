"""What `harness new` writes: a working file for each family and for a study, and the tests of both.

Nothing imports them. `Mine` and `mine` stand for the name that is chosen.
"""
