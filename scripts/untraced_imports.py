"""Keep coverage from following the imports of others' modules, which cost half a second in each process with Dask.

Run as a program it makes its own Python begin with it; `scripts/test --all` does. It acts only where
``COVERAGE_PROCESS_START`` asks for coverage.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType

OTHERS = (f"{os.sep}site-packages{os.sep}", os.path.dirname(os.__file__) + os.sep)  # noqa: PTH120 - quick to import


def begin() -> None:
    """Have modules of the standard library and of other projects run untraced when they are imported."""
    run = SourceFileLoader.exec_module

    def exec_module(self: SourceFileLoader, module: ModuleType) -> None:
        tracer = sys.gettrace()
        # Another than coverage's own, such as a debugger's, cannot be started again.
        start = getattr(tracer, "start", None)
        if start is None or not any(place in self.path for place in OTHERS):
            run(self, module)
            return
        sys.settrace(None)
        try:
            run(self, module)
        finally:
            start()

    SourceFileLoader.exec_module = exec_module  # type: ignore[method-assign]


def install() -> None:
    """Put a copy where this Python looks when it starts."""
    import shutil
    import sysconfig
    from pathlib import Path

    site = Path(sysconfig.get_path("purelib"))
    shutil.copy(__file__, site)
    (site / "untraced_imports.pth").write_text("import untraced_imports\n")


if __name__ == "__main__":
    install()
elif "COVERAGE_PROCESS_START" in os.environ:
    begin()
