"""The staging directory of one cluster: the rendered job, its script, the credentials, the output."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from .. import config
from ..condor.schedd import check_schedd
from ..errors import ConfigError, StagingError
from ..files import NotOwnError, private_directory, write_private
from ..packages.packed import Packed
from ..sites.paths import expand
from .job import REMOTE_FILES, job_files, spool_seconds
from .spec import WorkerSpec

logger = logging.getLogger(__name__)

# A cluster's name comes from a server and becomes a directory, a batch name and a part of a TLS host name.
_CLUSTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.A)


def check_cluster_name(name: str) -> str:
    """Return `name` if it can be a cluster's: nothing that leaves the staging directory or steers a submit."""
    if not _CLUSTER_NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot be the name of a Dask Gateway cluster")
    return name


def staging_root() -> Path:
    """Return the directory that holds the staging directories of all clusters."""
    if named := os.environ.get("HTCDASK_STAGEDIR"):
        return expand(named, "HTCDASK_STAGEDIR").absolute()
    name = "htcdaskgateway.staging-directory"
    found = config.get("staging-directory") or "~/htcdask"
    places = found if isinstance(found, (list, tuple)) else [found]
    if not all(isinstance(place, str) and place for place in places):
        raise ConfigError(f"{name}={found!r} is neither a path nor a list of paths")
    *first, last = places
    return next(filter(None, (_own(place, name) for place in first)), None) or expand(last, name).absolute()


def _own(place: str, name: str) -> Path | None:
    """Return a place for staging if the directory that it is to lie in is the user's, as that of a site may be."""
    try:
        path = expand(place, name).absolute()
        return path if path == Path(os.path.normpath(path)) and path.parent.stat().st_uid == os.geteuid() else None
    except (OSError, ValueError, ConfigError):  # no such directory, or nobody by this number has a name
        return None


def check_root() -> None:
    """Check that the staging root can be written, by writing there."""
    root = staging_root()
    with _explained(root):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = root / f".probe-{secrets.token_hex(8)}"
        probe.mkdir(mode=0o700)
        probe.rmdir()


class Staging:
    """The staging directory of one cluster, readable to the user alone."""

    def __init__(self, cluster: str, spec: WorkerSpec) -> None:
        self.cluster = check_cluster_name(cluster)
        self.spec = spec
        self.directory = staging_root() / cluster
        self.packed: Packed | None = None
        self._address = ""

    @property
    def description(self) -> Path:
        """The submit description."""
        return self.directory / "worker.sub"

    @property
    def logs(self) -> Path:
        """The directory of the workers' output."""
        named = self.spec.log_directory
        return expand(named, "log_directory").absolute() / self.cluster if named else self.directory / "logs"

    def spool_limit(self, count: int) -> float:
        """Return how long a spooled submit of `count` jobs may take, in seconds: each is sent all of its files."""
        return config.seconds("condor.timeout") + count * spool_seconds(self.spec)

    def rendered(self, scheduler_address: str) -> dict[str, str]:
        """Return the text of each rendered file by its name; the scheduler is ``gateway://HOST:PORT/NAME``."""
        # A spooled job has a flat directory at the schedd; elsewhere a full path would tell nothing more.
        logs = "." if self.spec.spool else (str(self.logs) if self.spec.log_directory else "logs")
        files = job_files(self.cluster, self.spec, scheduler_address, logs, self.packed)
        return {**files, "gateway": _gateway(scheduler_address)}

    def write(self, scheduler_address: str, certificate: str, key: str) -> None:
        """Write the directory, private from the moment it exists; a second time it changes nothing.

        `certificate` and `key` are the cluster's TLS credentials in PEM form.
        """
        self._address = scheduler_address
        files = self.rendered(scheduler_address)
        with _explained(self.directory):
            staging_root().mkdir(mode=0o700, parents=True, exist_ok=True)
            credentials = self.directory / "credentials"
            for directory in (self.directory, credentials):
                private_directory(directory)
            self.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write_files(files)
            _write(credentials / "dask.crt", certificate, 0o600)
            _write(credentials / "dask.pem", key, 0o600)

    def refresh(self) -> None:
        """Write what has changed with the packages, for the jobs that start from now on."""
        files = self.rendered(self._address)
        with _explained(self.directory):
            self._write_files(files)

    def _write_files(self, files: dict[str, str]) -> None:
        if self.packed is not None:
            from ..packages import sending

            sending.stage(self.packed, self.directory)
        for name, text in files.items():
            _write(self.directory / name, text, 0o700 if name.endswith(".sh") else 0o600)

    def check(self) -> None:
        """Check that what a job needs is still there."""
        for name in ("worker.sub", "worker.sh", *REMOTE_FILES, "credentials/dask.crt", "credentials/dask.pem"):
            if not os.access(self.directory / name, os.R_OK):
                raise StagingError(
                    f"{self.directory / name} is gone. `HTCGateway(...).connect({self.cluster!r})` writes it again."
                )


def job_script(cluster: str, spec: WorkerSpec) -> str:
    """Return the submit description and the worker script of a cluster as they were staged."""
    stage = Staging(cluster, spec)
    parts = []
    for path in (stage.description, stage.directory / "worker.sh"):
        try:
            parts.append(f"# ==> {path} <==\n{path.read_text(encoding='utf-8').rstrip()}\n")
        except OSError as error:
            raise StagingError(f"{path} cannot be read: {error.strerror or error}") from error
    return "\n".join(parts)


def remove_credentials(cluster: str) -> None:
    """Remove a cluster's credentials; the output and the rendered files stay for reading."""
    directory = staging_root() / check_cluster_name(cluster)
    with _explained(directory):
        if (directory / "credentials").is_dir() and not any(
            path.is_symlink() for path in (directory, directory / "credentials")
        ):
            shutil.rmtree(directory / "credentials")


def note_schedd(cluster: str, schedd: str) -> None:
    """Keep the name of the schedd that holds a cluster's jobs, for when its scheduler cannot be asked any more."""
    directory = staging_root() / check_cluster_name(cluster)
    with _explained(directory):
        _write(directory / "schedd", f"{schedd}\n", 0o600)


def noted_schedd(cluster: str) -> str:
    """Return the name of the schedd that was kept by `note_schedd`; empty if there is none."""
    path = staging_root() / check_cluster_name(cluster) / "schedd"
    with contextlib.suppress(OSError, UnicodeDecodeError):  # as good as none
        return check_schedd(path.read_text().strip())
    return ""


def leftovers(scheduler_address: str) -> list[str]:
    """Return the names of the clusters of one gateway that have a staging directory of this user.

    `scheduler_address` is that of any scheduler of that gateway. What another gateway knows, this one cannot tell.
    """
    root = staging_root()
    with _explained(root):
        return sorted(
            path.parent.name
            for path in root.glob("*/gateway")
            if _CLUSTER_NAME.fullmatch(path.parent.name)
            and not path.parent.is_symlink()
            and path.read_text() == _gateway(scheduler_address)
        )


def has_credentials(cluster: str) -> bool:
    """Tell whether the staging directory of a cluster holds its credentials."""
    return (staging_root() / check_cluster_name(cluster) / "credentials").is_dir()


def _gateway(scheduler_address: str) -> str:
    return f"{urlsplit(scheduler_address).netloc}\n"


def sweep(cluster: str) -> None:
    """Remove what a cluster left behind that is gone everywhere: its credentials now, its output after a time."""
    directory = staging_root() / check_cluster_name(cluster)
    # Another client may sweep at the same moment.
    with _explained(directory), contextlib.suppress(FileNotFoundError):
        if directory.is_symlink() or directory.stat().st_uid != os.geteuid():
            return
        if time.time() - directory.stat().st_mtime > config.seconds("keep-staging"):
            logger.info("removing %s: its cluster is gone", directory)
            shutil.rmtree(directory)
        else:
            remove_credentials(cluster)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except NotOwnError as error:
        raise StagingError(
            f"{error}. Remove it, or set HTCDASK_STAGEDIR to a directory of yours. Do not share a "
            "staging directory between users."
        ) from error
    except OSError as error:
        raise StagingError(
            f"Cannot use the staging directory {path}: {error.strerror or error}. Set HTCDASK_STAGEDIR to a "
            "directory of yours that the submit node sees and that has room."
        ) from error


def _write(path: Path, text: str, mode: int) -> None:
    """Write `path`, unless it is right already."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        # A job that starts at this moment reads these files: what is right is left alone.
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) == mode and path.read_text() == text:
            return
    write_private(path, text, mode)
