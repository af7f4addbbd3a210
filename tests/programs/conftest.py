"""Others' programs; `scripts/test -e programs` runs them, a plain pytest leaves them out: they need much else."""

import os

if os.environ.get("PROGRAMS_TESTS") != "1":
    collect_ignore_glob = ["test_*.py"]
