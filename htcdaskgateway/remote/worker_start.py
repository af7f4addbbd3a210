"""Start ``dask worker``, or say in one line why this Python cannot, and end so that the job is not tried again.

Sent with the job: ``python worker_start.py ADDRESS OPTIONS...``, where ``dask worker ADDRESS OPTIONS...`` is meant.
"""

import os
import platform
import sys

CANNOT = 78  # EX_CONFIG of sysexits.h


def where():
    """Return the words for this Python and the container that it is in."""
    image = os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER")
    return "Python %s (%s) %s" % (
        platform.python_version(),
        sys.executable,
        "of the image %s" % image if image else "on %s" % platform.node(),
    )


def start():
    """Run the worker; return only if that is not possible."""
    try:
        from distributed.cli.dask_worker import main
    except Exception as error:
        sys.stderr.write(
            "%s cannot run a Dask worker: %s: %s. Install dask and distributed there.\n"
            % (where(), type(error).__name__, error)
        )
        return CANNOT
    import dask
    import distributed
    import msgpack

    versions = "dask %s, distributed %s, msgpack %s" % (
        dask.__version__,
        distributed.__version__,
        ".".join(map(str, msgpack.version)),
    )
    sys.stderr.write("%s has %s\n" % (where(), versions))
    main(prog_name="dask worker")
    return 0


if __name__ == "__main__":
    sys.exit(start())
