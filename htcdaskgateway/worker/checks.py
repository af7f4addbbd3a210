"""Check the values that describe a worker, one kind of value a function.

Each takes a value and the name that an error shall call it by, returns the value as it is kept, and raises
`ConfigError` if it cannot be used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..condor.jobs import CLUSTER_ATTRIBUTE
from ..errors import ConfigError

RUNTIMES = ("htcondor", "apptainer", "singularity-image", "none")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.A)
_DIRECTIVE = re.compile(r"(\+|My\.)?([A-Za-z_][A-Za-z0-9_.]*)", re.A | re.I)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?!$)", re.A)
_PORTS = re.compile(r"(\d{1,5})(?::(\d{1,5}))?", re.A)
_HOST_PORT = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(\d{1,5})", re.A)
# Submit commands that this package writes itself, by all names that HTCondor has for them, the job's attributes
# included. Changed by a directive they would lose jobs or credentials.
_OURS = frozenset(
    [
        "arguments", "args",
        "batch_name", "jobbatchname",
        "dont_encrypt_input_files", "dontencryptinputfiles",
        "encrypt_input_files", "encryptinputfiles",
        "error", "stderr", "err",
        "executable", "cmd",
        "initialdir", "initial_dir", "iwd",
        "input", "stdin", "in",
        "log", "userlog",
        "output", "stdout", "out",
        "queue",
        "should_transfer_files", "shouldtransferfiles",
        "transfer_executable", "transferexecutable",
        "transfer_input_files", "transferinputfiles", "transferinput",
        "transfer_output_files", "transferoutputfiles", "transferoutput",
        "universe", "jobuniverse",
        CLUSTER_ATTRIBUTE.lower(),
    ]
)  # fmt: skip
# Late materialization: jobs that are not in the queue yet, which are counted only where `max_idle` is the option.
_UNCOUNTED = frozenset(
    ["max_idle", "materialize_max_idle", "jobmaterializemaxidle", "max_materialize", "jobmaterializelimit"]
)
# Arguments of condor_submit by which the jobs would be elsewhere, others or uncounted, and what to use instead.
_NOT_EXTRA = {
    "address": "htcdaskgateway.condor.schedd",
    "append": "job_extra_directives",
    "capabilities": None,
    "digest": None,
    "dry-run": None,
    "dump": None,
    "factory": "max_idle",
    "file": "htcdaskgateway.template-directory",
    "generator": "max_idle",
    "help": None,
    "interactive": None,
    "iterate": "scale(n)",
    "name": "htcdaskgateway.condor.schedd",
    "pool": "htcdaskgateway.condor.pool",
    "queue": "scale(n)",
    "remote": "htcdaskgateway.condor.schedd, and spool=True",
    "spool": "spool=True",
    "table": "scale(n)",
    "verbose": None,
}
# Arguments of dask worker by which it would not be its job's one worker, or not join, and what to use instead.
_NOT_FOR_WORKER = {
    "--": None,
    "--contact-address": None,
    "--death-timeout": "death_timeout",
    "--help": None,
    "--listen-address": "worker_port and interface",
    "--n-workers": "processes",
    "--name": None,
    "--nanny": "nanny=True",
    "--nanny-port": "worker_port",
    "--no-nanny": "nanny=False",
    "--nprocs": "processes",
    "--nworkers": "processes",
    "--preload-nanny": None,
    "--scheduler-file": None,
    "--scheduler-sni": None,
    "--tls-ca-file": None,
    "--tls-cert": None,
    "--tls-key": None,
    "--version": None,
}


def text(value: Any, name: str) -> str:
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


def optional(check: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    """Return a check that lets None pass and asks `check` about all else."""
    return lambda value, name: None if value is None else check(value, name)


def is_address(image: str) -> bool:
    """Tell whether an image is fetched from an address, as ``docker://…`` is, and not a path."""
    return bool(_ADDRESS.match(image))


def image(value: Any, name: str) -> str:
    """Check the address or the path of an image, and make a path absolute."""
    found = text(value, name)
    if is_address(found) or Path(found).is_absolute():
        return found
    # The job is submitted from the staging directory, where a relative path would lead nowhere.
    return str(Path(found).expanduser().absolute())


def runtime(value: Any, name: str) -> str:
    """Check who starts the container."""
    if value is None:  # as dask reads the word none of an environment variable
        value = "none"
    if value not in RUNTIMES:
        raise ConfigError(f"{name}={value!r} is none of {', '.join(map(repr, RUNTIMES))}")
    return str(value)


def count(value: Any, name: str) -> int:
    """Check a whole number of at least 1; 4.0 and "4" may come out of a YAML file."""
    try:
        # True is somebody's mistake.
        found = int(value) if not isinstance(value, bool) and float(value) == int(value) else 0
    except (TypeError, ValueError, OverflowError):
        found = 0
    if found < 1:
        raise ConfigError(f"{name}={value!r} is not a whole number of at least 1")
    return found


def flag(value: Any, name: str) -> bool:
    """Check for true or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name}={value!r} is neither true nor false")
    return value


def texts(value: Any, name: str) -> tuple[str, ...]:
    """Check a list of texts; None is an empty one."""
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise ConfigError(f"{name}={value!r} is not a list of texts; write [{value!r}]")
    return tuple(text(str(item) if isinstance(item, (int, float)) else item, name) for item in value)


def _items(value: Any, name: str, what: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value or {}, Mapping):
        raise ConfigError(f"{name}={value!r} is not a mapping of {what}")
    for key, item in (value or {}).items():
        yield str(key), item


def environment(value: Any, name: str) -> dict[str, str | None]:
    """Check environment variables; None, as for Dask's nanny, is for one that is not to be set."""
    checked: dict[str, str | None] = {}
    for key, item in _items(value, name, "names to values"):
        if not _VARIABLE.fullmatch(key):
            raise ConfigError(f"{name}: {key!r} is not the name of an environment variable")
        checked[key] = item if item is None or item == "" else text(str(item), f"{name}[{key!r}]")
    return checked


def directives(value: Any, name: str) -> dict[str, str]:
    """Check lines of a submit description: none of those that this package writes itself."""
    checked = {}
    for key, item in _items(value, name, "submit commands to values"):
        match = _DIRECTIVE.fullmatch(key)
        if not match:
            raise ConfigError(f"{name}: {key!r} is not the name of a submit command")
        if match[2].lower() in _UNCOUNTED:
            raise ConfigError(
                f"{name}: {key!r} makes HTCondor hold jobs back where condor_q does not count them, so that "
                "scale(n) would submit them again; the option max_idle does the same, and counts them"
            )
        if match[2].lower() in _OURS:
            raise ConfigError(f"{name}: {key!r} is written by htcdaskgateway itself and cannot be replaced")
        checked[key] = expression(str(item).lower() if isinstance(item, bool) else str(item), f"{name}[{key!r}]")
    return checked


def _instead(option: str | None) -> str:
    return f"; use {option}" if option else ""


def worker_arguments(value: Any, name: str) -> tuple[str, ...]:
    """Check more arguments of dask worker: none by which it would not be its job's one worker, or not join."""
    checked = texts(value, name)
    for word in checked:
        option = word.partition("=")[0]
        if option in _NOT_FOR_WORKER:
            raise ConfigError(
                f"{name}: {word!r} would keep a worker from joining, or from being known as its job's"
                f"{_instead(_NOT_FOR_WORKER[option])}"
            )
    if checked:
        _check_known(checked, name)
    return checked


def _check_known(words: tuple[str, ...], name: str) -> None:
    """Ask the parser of dask worker about its arguments; with one that it does not know a job is held at last."""
    import click
    from distributed.cli.dask_worker import main

    parser = main.make_parser(click.Context(main, **main.context_settings))
    try:
        given, _, _ = parser.parse_args(["address", *words])
    except click.UsageError as error:
        raise ConfigError(f"{name}: dask worker would say: {error.format_message()}") from error
    # What follows a preload may be that preload's own.
    strays = given["preload_argv"]
    # Where there are none, the newest click has neither None nor an empty tuple.
    if isinstance(strays, tuple | list) and strays and not isinstance(given.get("preload"), list):
        raise ConfigError(
            f"{name}: dask worker knows no {strays[0]!r}; `dask worker --help` lists its options, and each word "
            'is a text of its own: ["--resources", "GPU=1"]'
        )


def submit_arguments(value: Any, name: str) -> tuple[str, ...]:
    """Check more arguments of condor_submit: none by which the jobs would be elsewhere, others or uncounted."""
    checked = texts(value, name)
    before = ""
    for word in checked:
        # HTCondor takes one hyphen or two, and the beginning of an option's name for the name.
        option = word.lstrip("-").lower() if word.startswith("-") else ""
        refused = next((known for known in _NOT_EXTRA if option and known.startswith(option)), None)
        if refused:
            instead = _instead(_NOT_EXTRA[refused])
            raise ConfigError(f"{name}: {word!r} is condor_submit's -{refused}, which would lose jobs{instead}")
        if not option and not before.startswith("-"):
            raise ConfigError(
                f"{name}: {word!r} is no option, nor the value of one; use job_extra_directives for what belongs "
                "into the submit description"
            )
        before = word
    return checked


def expression(value: Any, name: str) -> str:
    """Check what stands on the right side of a submit command, such as a ClassAd expression."""
    found = text(value, name)
    if found.rstrip().endswith("\\"):
        raise ConfigError(f"{name}={value!r} ends with a backslash, which would swallow the next line")
    return found


def _is_port(digits: str) -> bool:
    return 0 < int(digits) < 65536


def ports(value: Any, name: str) -> str:
    """Check a port, or a range of ports as ``first:last``."""
    match = _PORTS.fullmatch(str(value))
    # Port 0 is any free one.
    if str(value) != "0" and (not match or not all(map(_is_port, filter(None, match.groups())))):
        raise ConfigError(f"{name}={value!r} is not a port or a range of ports such as '10000:10070'")
    if match and match[2] and int(match[1]) > int(match[2]):
        raise ConfigError(f"{name}={value!r} begins after its end")
    return str(value)


def port_count(ports: str) -> int:
    """Return how many ports a checked range has; 0 for any free one."""
    first, _, last = ports.partition(":")
    return int(last or first) - int(first) + 1 if int(first) else 0


def host_port(value: Any, name: str) -> str:
    """Check ``HOST:PORT``."""
    match = _HOST_PORT.fullmatch(text(value, name))
    if not match or not _is_port(match[1]):
        raise ConfigError(f"{name}={value!r} is not HOST:PORT")
    return str(value)
