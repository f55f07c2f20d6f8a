"""Name the folders that tests read."""

import pathlib

TESTS = pathlib.Path(__file__).resolve().parent.parent
REPOSITORY = TESTS.parent
GOLDEN = TESTS / "golden"
GRIDS = REPOSITORY.parent / "shared" / "grids"  # published tables, where they are
