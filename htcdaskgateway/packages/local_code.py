"""The user's own code: editable installs, modules beside the notebook, what ``PYTHONPATH`` names."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigError
from .environment import Environment, Found, walk

MOST = 50 * 10**6
"""How many bytes of local code are sent at most: they go with each job."""

_NAMED = 3
_NOT_CODE = frozenset(["build", "dist", "docs", "node_modules", "tests", "venv", "__pycache__"])
_MAPPING = re.compile(r"^MAPPING[^=]*= (\{.*\})", re.M)


class LocalCode:
    """The local code of an environment: `editable` names what stands for it among the installed packages."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.editable: set[str] = set()
        self._roots: list[Path] = []
        self._packages: dict[str, Path] = {}
        self._find_editable()
        if environment.is_notebook:
            self._roots = [*map(Path, environment.path), *self._roots]

    def _find_editable(self) -> None:
        for distribution in importlib.metadata.distributions(path=self.environment.sites):
            origin = json.loads(distribution.read_text("direct_url.json") or "{}")
            if not origin.get("dir_info", {}).get("editable"):
                continue
            for file in distribution.files or ():
                path = Path(str(distribution.locate_file(file)))
                if len(file.parts) == 1 and path.suffix == ".pth":
                    lines = path.read_text(encoding="utf-8").splitlines()
                    self._roots += [Path(line) for line in lines if line and not line.startswith(("import", "#"))]
                    self.editable.add(path.name)
                elif path.name.endswith("_finder.py"):
                    mapping = _MAPPING.search(path.read_text(encoding="utf-8"))
                    if mapping:
                        named = ast.literal_eval(mapping[1])
                        self._packages |= {name.replace(".", "/"): Path(place) for name, place in named.items()}
                    self.editable.add(path.name)
                elif len(file.parts) == 2 and file.parts[0].endswith(".dist-info"):
                    # What it says of versions and entry points goes along with the code.
                    self._packages[file.parts[0]] = path.parent
                    self.editable.add(file.parts[0])

    def files(self) -> list[Found]:
        """Return the files; of two of one name the first on the path.

        Raises
        ------
        ConfigError
            They are too many to be sent with each job.
        """
        found: dict[str, Found] = {}
        for file in self._walk():
            found.setdefault(file.name, file)
        total = sum(file.stat.st_size for file in found.values())
        if total > MOST:
            largest = sorted(found.values(), key=lambda file: -file.stat.st_size)[:_NAMED]
            named = ", ".join(f"{file.path} ({file.stat.st_size / 1e6:.1f} MB)" for file in largest)
            raise ConfigError(
                f"the local code has {total / 1e6:.0f} MB, and at most {MOST / 1e6:.0f} MB go with each job. The "
                f"largest files: {named}. Keep data in another directory than the modules, or start the notebook "
                "in a directory of its own"
            )
        return list(found.values())

    def _walk(self) -> Iterator[Found]:
        for name, place in self._packages.items():
            if place.is_dir():
                yield from self._package(place, name)
            elif place.with_suffix(".py").is_file():
                yield Found(f"{name}.py", str(place.with_suffix(".py")), place.with_suffix(".py").stat())
        for root in dict.fromkeys(path.resolve() for path in self._roots):
            if root.is_dir() and self._is_users(root):
                for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
                    if entry.name.startswith(".") or entry.name in _NOT_CODE:
                        continue
                    if entry.is_file() and entry.name.endswith((".py", ".so")):
                        yield Found(entry.name, os.path.realpath(entry.path), entry.stat())
                    elif entry.is_dir() and _holds_code(Path(entry.path)):
                        yield from self._package(Path(entry.path), entry.name)

    def _is_users(self, root: Path) -> bool:
        own = (self.environment.prefix, self.environment.base_prefix, self.environment.library)
        standard = {Path(place).resolve() for place in own if place != "/usr"}
        return not any(root.is_relative_to(place) for place in (*standard, *map(Path, self.environment.sites)))

    @staticmethod
    def _package(place: Path, name: str) -> Iterator[Found]:
        for file in walk(os.path.realpath(place), name):
            parts = set(file.name.split("/"))
            if not parts & _NOT_CODE and not any(part.startswith(".") for part in parts):
                yield file


def _holds_code(directory: Path) -> bool:
    """Tell whether a directory can be imported: a package, or a namespace package with modules in it."""
    try:
        return not (directory / "pyvenv.cfg").exists() and any(
            entry.name.endswith(".py") for entry in os.scandir(directory)
        )
    except OSError:  # one that the user may not read, which they cannot import either
        return False
