"""Where a Python has its parts; also run as a program, by the Python of another environment.

It imports the standard library only.
"""

from __future__ import annotations

import json
import os
import platform
import ssl
import sys
import sysconfig


def describe() -> dict[str, object]:
    """Return where the Python that runs this has its parts."""
    paths = ssl.get_default_verify_paths()
    return {
        "prefix": sys.prefix,
        "base_prefix": sys.base_prefix,
        "program": os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable),
        "library": os.path.realpath(os.__file__).rpartition("/")[0],
        "version": "%d.%d" % sys.version_info[:2],  # noqa: UP031
        "tag": sys.implementation.cache_tag,
        "machine": platform.machine(),
        "libc": platform.libc_ver()[0],
        "path": [os.path.realpath(entry or ".") for entry in sys.path],
        "certificates": paths.cafile or "",
        "libpython": sysconfig.get_config_var("LDLIBRARY") or "",
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(describe()))
