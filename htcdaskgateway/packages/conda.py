"""Conda's environments: conda-pack knows which of their files hold the environment's path."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError
from .archive import Manifest
from .environment import Environment, Found

# What an environment keeps of its own history; only conda reads it, and each compiled module comes with its source.
_LEFT_OUT = frozenset(["conda-meta", "__pycache__"])
_PYTHONS = "bin/python"


class Prefix(NamedTuple):
    """What of a file is the environment's path: the text that stands for it, and how it is replaced."""

    placeholder: str
    mode: str


class CondaFiles:
    """The files of a conda environment, which get its path on the node."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self._prefixes: dict[str, Prefix] = {}

    def found(self, editable: frozenset[str]) -> Iterator[Found]:
        """Yield the files but those of the local code."""
        prefix = self.environment.prefix
        for file in _files(prefix):
            place = f"{prefix}/{file.target}"
            if _LEFT_OUT & set(file.target.split("/")) or self.environment.is_local(place, editable):
                continue
            if Path(place).is_dir() and not Path(place).is_symlink():  # an empty one
                continue
            if file.file_mode == "binary":
                # In the package cache it is as it was before conda wrote the path into it, with room for others.
                self._prefixes[file.target] = Prefix(file.prefix_placeholder, "binary")
                place = file.source
            elif file.file_mode is not None:
                self._prefixes[file.target] = Prefix(prefix, "text")
            yield Found(file.target, place, os.lstat(place))

    def notes(self, manifest: Manifest) -> Mapping[str, str]:
        """Return what writes the paths on the node, and where."""
        found = [
            (name, *prefix)
            for name, prefix in sorted(self._prefixes.items())
            if name in manifest and not name.startswith(_PYTHONS) and _holds(manifest[name].path, prefix)
        ]
        program = Path(import_module("conda_pack.prefixes").__file__ or "").read_text(encoding="utf-8")
        return {"prefixes.json": json.dumps(found), "prefixes.py": program}


def _holds(path: str, prefix: Prefix) -> bool:
    """Tell whether a file has that path in it, in that way: what is text is found by what it holds."""
    if Path(path).is_symlink():
        return False
    content = Path(path).read_bytes()
    return prefix.placeholder.encode() in content and (prefix.mode == "binary" or b"\0" not in content)


def _files(prefix: str) -> Any:
    pack = check()
    try:
        # A package that is not in conda's cache any more goes by what is in the environment.
        known = {"on_missing_cache": "ignore", "ignore_editable_packages": True, "ignore_missing_files": True}
        return pack.CondaEnv.from_prefix(prefix, **known).files
    except (pack.CondaPackException, ValueError, KeyError) as error:
        raise ConfigError(f"conda-pack cannot read the environment {prefix}: {error}") from error


def check() -> Any:
    """Return conda-pack, or say what to do where it is not."""
    try:
        return import_module("conda_pack")
    except ImportError as error:
        raise ConfigError(
            "packages: a conda environment holds its own path, and conda-pack, which changes it, is not here: "
            "`pip install conda-pack` or `conda install conda-pack`; or pass container_runtime='apptainer' and a "
            "container_image, which need no other path"
        ) from error
