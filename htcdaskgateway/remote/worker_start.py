"""Start ``dask worker``, or say why this Python cannot, and end with an exit code of its own.

Sent with the job: ``python worker_start.py ADDRESS OPTIONS...`` does what ``dask worker ADDRESS OPTIONS...`` does.
"""

from __future__ import annotations

import os
import platform
import sys

CANNOT = 78


def where() -> str:
    """Return the words for this Python and the machine or container that it is in."""
    image = os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER")
    place = f"in the image {image}" if image else f"on {platform.node()}"
    return f"Python {platform.python_version()} ({sys.executable}) {place}"


def start() -> int:
    """Run the worker, which ends the process; return only if that is not possible."""
    try:
        import dask
        import distributed
        import msgpack
        from distributed.cli.dask_worker import main
    except Exception as error:
        sys.stderr.write(
            f"{where()} cannot run a Dask worker: {type(error).__name__}: {error}. dask and distributed, of the "
            "client's versions, have to be installed there.\n"
        )
        return CANNOT
    of_msgpack = ".".join(map(str, msgpack.version))
    versions = f"dask {dask.__version__}, distributed {distributed.__version__}, msgpack {of_msgpack}"
    sys.stderr.write(f"{where()} has {versions}\n")
    main(prog_name="dask worker")
    return 0


if __name__ == "__main__":
    sys.exit(start())
