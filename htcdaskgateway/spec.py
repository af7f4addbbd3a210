"""What one worker needs: a frozen description made of configuration and keywords."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import config
from .errors import ConfigError
from .units import KIB, MIB, format_bytes, parse_amount

RUNTIMES = ("htcondor", "apptainer", "none")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.A)
_DIRECTIVE = re.compile(r"(?:\+|My\.)?[A-Za-z_][A-Za-z0-9_.]*", re.A | re.I)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?!$)", re.A)
_PORTS = re.compile(r"(\d{1,5})(?::(\d{1,5}))?", re.A)
_HOST_PORT = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(\d{1,5})", re.A)
# Submit commands that this package writes itself; changed by a directive they would lose jobs or credentials.
_OURS = frozenset(
    [
        "arguments",
        "batch_name",
        "encrypt_input_files",
        "error",
        "executable",
        "input",
        "log",
        "output",
        "queue",
        "transfer_executable",
        "transfer_input_files",
        "transfer_output_files",
        "universe",
    ]
)
# Late materialization: jobs that are not in the queue yet, which are counted only where `max_idle` is the option.
_UNCOUNTED = frozenset(["max_idle", "max_materialize", "my.jobmaterializemaxidle", "+jobmaterializemaxidle"])


@dataclass(frozen=True)
class WorkerSpec:
    """What one worker needs.

    Each field is a keyword of ``new_cluster`` and, with ``-`` for ``_``, a key of ``htcdaskgateway.worker`` in
    dask's configuration. `from_keywords` makes one of both.

    Attributes
    ----------
    container_image : str or None
        Path or address of the image the worker runs in; a relative path is one of this machine's.
    container_runtime : {'htcondor', 'apptainer', 'none'}
        Who starts the container: HTCondor's container universe, the worker script, or nobody.
    container_command : str
        The program of the ``apptainer`` runtime.
    container_binds, container_options : tuple of str
        Its ``--bind`` arguments and its other options.
    transfer_container : bool or None
        Whether the ``htcondor`` runtime sends the image with each job, or takes it from its path on the execute
        node. None: a file is sent, a directory is not. What is below ``/cvmfs`` is never sent.
    cpus : int
        ``request_cpus``, and the number of threads of the worker.
    memory : int
        ``request_memory`` and the memory limit of the worker, in bytes. Given as text it is read as HTCondor
        reads it: ``32GB`` is 32 GiB, a bare number counts MiB.
    disk : int or None
        ``request_disk`` in bytes. A bare number counts KiB, as for HTCondor.
    gpus : int or None
        ``request_gpus``.
    python : str
        The worker's Python, as the execute node or the image has it.
    worker_extra_args : tuple of str
        More arguments of ``dask worker``.
    worker_port : str
        The port or range of ports (``first:last``) that workers listen on.
    interface : str or None
        The network interface that they listen on.
    scheduler_proxy : str or None
        ``HOST:PORT`` of the gateway's scheduler proxy, where workers see it under another name than the client.
    death_timeout : float
        How long a worker without a scheduler stays, in seconds.
    start_interval : float
        Seconds between the first starts of workers that were asked for at once, so that a thousand do not read a
        shared file system in the same moment. A slot waits in whole seconds for its worker's turn. 0: none waits.
    environment : dict of str to str
        Environment variables of the worker. They are readable by whoever may use the scheduler: no secrets.
    job_script_prologue : tuple of str
        Shell lines that run before the worker starts.
    job_extra_directives : dict of str to str
        More lines of the submit description, such as ``{"accounting_group": "physics"}``.
    submit_command_extra : tuple of str
        More arguments of ``condor_submit``.
    requirements, rank : str or None
        ClassAd expressions.
    log_directory : str or None
        Where the output of the workers goes; None for ``logs/`` in the staging directory.
    spool : bool
        Send the input files to the schedd, for one that does not see the staging directory.
    max_idle : int or None
        How many jobs of one submit may wait in the queue (or be held) at a time: the schedd makes the others as
        those start, until ``max_idle_time`` after the submit (HTCondor's late materialization). None: all wait in
        the queue. It stays as it was when the cluster was made.
    max_idle_time, max_held_time : float
        How long a job may wait in the queue or be held before HTCondor removes it, in seconds.
    """

    container_image: str | None
    container_runtime: str
    container_command: str
    container_binds: tuple[str, ...]
    container_options: tuple[str, ...]
    transfer_container: bool | None
    cpus: int
    memory: int
    disk: int | None
    gpus: int | None
    python: str
    worker_extra_args: tuple[str, ...]
    worker_port: str
    interface: str | None
    scheduler_proxy: str | None
    death_timeout: float
    start_interval: float
    environment: Mapping[str, str]
    job_script_prologue: tuple[str, ...]
    job_extra_directives: Mapping[str, str]
    submit_command_extra: tuple[str, ...]
    requirements: str | None
    rank: str | None
    log_directory: str | None
    spool: bool
    max_idle: int | None
    max_idle_time: float
    max_held_time: float

    @classmethod
    def from_keywords(cls, **keywords: Any) -> WorkerSpec:
        """Return the spec that the configuration, overridden by `keywords`, describes.

        Raises
        ------
        ConfigError
            A value cannot be used; the message names it.
        TypeError
            There is no such keyword.
        """
        unknown = keywords.keys() - KEYWORDS
        if unknown:
            raise TypeError(
                f"unknown worker option {sorted(unknown)[0]!r}; there are {', '.join(sorted(KEYWORDS))}"
            )
        values = {
            name: check(
                keywords[name] if name in keywords else config.get(f"worker.{name.replace('_', '-')}"), name
            )
            for name, check in _CHECKS.items()
        }
        if values["container_runtime"] == "none" and keywords.get("container_image") is not None:
            raise ConfigError(
                f"container_image={keywords['container_image']!r} was given, but container_runtime is 'none'; "
                "pass container_runtime='htcondor' or 'apptainer', or no image"
            )
        if values["container_runtime"] == "none":
            values["container_image"] = None
        if values["container_runtime"] == "apptainer" and values["container_image"] is None:
            raise ConfigError("container_runtime='apptainer' needs a container_image")
        if values["spool"] and values["max_idle"] is not None:
            raise ConfigError(
                f"max_idle={values['max_idle']!r} and spool=True exclude each other: HTCondor cannot make jobs "
                "later whose files are spooled"
            )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads, for the scheduler's metadata."""
        data = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }
        disk = None if self.disk_kib is None else f"{self.disk_kib}K"
        return {**data, "memory": f"{self.memory_mib}M", "disk": disk}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WorkerSpec:
        """Return the spec of `to_dict`, which another version of this package may have written.

        It came over a network, so it is checked like a user's keywords.

        Raises
        ------
        ConfigError
            A value cannot be used.
        """
        return cls.from_keywords(**{name: value for name, value in data.items() if name in KEYWORDS})

    @property
    def memory_mib(self) -> int:
        """The memory in MiB, as ``request_memory`` counts."""
        return self.memory // MIB

    @property
    def disk_kib(self) -> int | None:
        """The disk in KiB, as ``request_disk`` counts."""
        return None if self.disk is None else self.disk // KIB

    def __str__(self) -> str:
        parts = [f"{self.cpus} CPU(s)", f"{format_bytes(self.memory)} of memory"]
        if self.disk:
            parts.append(f"{format_bytes(self.disk)} of disk")
        if self.gpus:
            parts.append(f"{self.gpus} GPU(s)")
        if self.container_image and self.container_runtime != "none":
            parts.append(f"in {self.container_image}")
        return ", ".join(parts)


def _text(value: Any, name: str) -> str:
    """Check a text: not empty, and nothing in it that could begin a new line."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{name}={value!r} is not a text that can be used")
    if any(
        (ord(character) < 32 and character != "\t") or character in "\x7f\x85\u2028\u2029" for character in value
    ):
        raise ConfigError(f"{name}={value!r} holds a line break or another control character; remove it")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(f"{name}={value!r} cannot be written as UTF-8") from error
    return value


def _optional(check: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    return lambda value, name: None if value is None else check(value, name)


def is_address(image: str) -> bool:
    """Tell whether an image is fetched from an address, as ``docker://…`` is, and not a path."""
    return bool(_ADDRESS.match(image))


def _image(value: Any, name: str) -> str:
    image = _text(value, name)
    if is_address(image) or Path(image).is_absolute():
        return image
    # The job is submitted from the staging directory, where a relative path would lead nowhere.
    return str(Path(image).expanduser().absolute())


def _choice(value: Any, name: str) -> str:
    if value is None:  # as dask reads the word none of an environment variable
        value = "none"
    if value not in RUNTIMES:
        raise ConfigError(f"{name}={value!r} is none of {', '.join(map(repr, RUNTIMES))}")
    return str(value)


def _count(value: Any, name: str) -> int:
    # 4.0 and "4" may come out of a YAML file; True is somebody's mistake.
    try:
        count = int(value) if not isinstance(value, bool) and float(value) == int(value) else 0
    except (TypeError, ValueError, OverflowError):
        count = 0
    if count < 1:
        raise ConfigError(f"{name}={value!r} is not a whole number of at least 1")
    return count


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name}={value!r} is neither true nor false")
    return value


def _texts(value: Any, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise ConfigError(f"{name}={value!r} is not a list of texts; write [{value!r}]")
    return tuple(_text(str(item) if isinstance(item, (int, float)) else item, name) for item in value)


def _environment(value: Any, name: str) -> dict[str, str]:
    if not isinstance(value or {}, Mapping):
        raise ConfigError(f"{name}={value!r} is not a mapping of names to values")
    checked = {}
    for key, item in (value or {}).items():
        if not _VARIABLE.fullmatch(str(key)):
            raise ConfigError(f"{name}: {key!r} is not the name of an environment variable")
        checked[str(key)] = "" if str(item) == "" else _text(str(item), f"{name}[{key!r}]")
    return checked


def _directives(value: Any, name: str) -> dict[str, str]:
    if not isinstance(value or {}, Mapping):
        raise ConfigError(f"{name}={value!r} is not a mapping of submit commands to values")
    checked = {}
    for key, item in (value or {}).items():
        if not _DIRECTIVE.fullmatch(str(key)):
            raise ConfigError(f"{name}: {key!r} is not the name of a submit command")
        if str(key).lower() in _UNCOUNTED:
            raise ConfigError(
                f"{name}: {key!r} makes HTCondor hold jobs back where condor_q does not count them, so that "
                "scale(n) would submit them again; the option max_idle does the same, and counts them"
            )
        if str(key).lower() in _OURS:
            raise ConfigError(f"{name}: {key!r} is written by htcdaskgateway itself and cannot be replaced")
        text = _text(str(item).lower() if isinstance(item, bool) else str(item), f"{name}[{key!r}]")
        if text.rstrip().endswith("\\"):
            raise ConfigError(f"{name}[{key!r}]={item!r} ends with a backslash, which would swallow the next line")
        checked[str(key)] = text
    return checked


def _expression(value: Any, name: str) -> str:
    text = _text(value, name)
    if text.rstrip().endswith("\\"):
        raise ConfigError(f"{name}={value!r} ends with a backslash, which would swallow the next line")
    return text


def _port(text: str) -> bool:
    return 0 < int(text) < 65536


def _ports(value: Any, name: str) -> str:
    match = _PORTS.fullmatch(str(value))
    # Port 0 is any free one.
    if str(value) != "0" and (not match or not all(map(_port, filter(None, match.groups())))):
        raise ConfigError(f"{name}={value!r} is not a port or a range of ports such as '10000:10070'")
    if match and match[2] and int(match[1]) > int(match[2]):
        raise ConfigError(f"{name}={value!r} begins after its end")
    return str(value)


def _host_port(value: Any, name: str) -> str:
    match = _HOST_PORT.fullmatch(_text(value, name))
    if not match or not _port(match[1]):
        raise ConfigError(f"{name}={value!r} is not HOST:PORT")
    return str(value)


_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "container_image": _optional(_image),
    "container_runtime": _choice,
    "container_command": _text,
    "container_binds": _texts,
    "container_options": _texts,
    "transfer_container": _optional(_flag),
    "cpus": _count,
    "memory": lambda value, name: parse_amount(value, name, step=MIB),
    "disk": _optional(lambda value, name: parse_amount(value, name, step=KIB)),
    "gpus": _optional(_count),
    "python": _text,
    "worker_extra_args": _texts,
    "worker_port": _ports,
    "interface": _optional(_text),
    "scheduler_proxy": _optional(_host_port),
    "death_timeout": config.parse_seconds,
    "start_interval": lambda value, name: config.parse_seconds(value, name, zero=True),
    "environment": _environment,
    "job_script_prologue": _texts,
    "job_extra_directives": _directives,
    "submit_command_extra": _texts,
    "requirements": _optional(_expression),
    "rank": _optional(_expression),
    "log_directory": _optional(_text),
    "spool": _flag,
    "max_idle": _optional(_count),
    "max_idle_time": config.parse_seconds,
    "max_held_time": config.parse_seconds,
}

KEYWORDS = frozenset(_CHECKS)
"""The keywords of ``new_cluster`` that describe a worker; all others are the gateway server's."""
