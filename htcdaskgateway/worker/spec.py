"""What one worker needs: a frozen description made of configuration and keywords."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import config
from ..plain import counted
from . import checks, fermilab, own_python, relay, sites, together
from .keywords import check_known
from .units import KIB, MIB, format_bytes, parse_amount


@dataclass(frozen=True)
class WorkerSpec:
    """What one worker needs.

    Each field is a keyword of ``new_cluster`` and, with ``-`` for ``_``, a key of ``htcdaskgateway.worker`` in
    dask's configuration. `from_keywords` makes one of both.

    Attributes
    ----------
    container_image : str or None
        Path or address of the image the worker runs in; a relative path is one of this machine's.
    container_runtime : {'htcondor', 'apptainer', 'singularity-image', 'none'}
        Who starts the container: HTCondor's container universe, the worker script, a pool that is told by the
        attribute ``SingularityImage`` of the job, or nobody.
    image_prefix : str or None
        The directory that images are below, as a short name such as ``group/image:tag`` is.
    container_command : str
        The program of the ``apptainer`` runtime.
    container_binds, container_options : tuple of str
        Its ``--bind`` arguments and its other options.
    bind_job_directory : str or None
        Where the ``apptainer`` runtime shows the job's directory in the container, too.
    transfer_container : bool or None
        Whether the ``htcondor`` runtime sends the image with each job, or takes it from its path on the execute
        node. None: a file is sent, a directory is not. What is below ``/cvmfs`` is never sent.
    cpus : int
        ``request_cpus``, and the number of threads of the job's workers together.
    memory : int
        ``request_memory`` and the memory limit of the job's workers together, in bytes. Text is read as
        HTCondor reads it: ``32GB`` is 32 GiB, a bare number counts MiB.
    processes : int
        How many workers a job has, which share its CPUs and memory. Use several for Python code that holds the GIL.
    nanny : bool
        Whether a nanny watches each worker: restarts it in place, ends it above its memory limit, and takes
        nanny plugins and ``restart_workers``. It costs a second process and a longer start for each worker.
    disk : int or None
        ``request_disk`` in bytes. A bare number counts KiB, as for HTCondor. None: 1 GiB beside the input
        files, such as an image that is sent.
    disk_per_cpu : int or None
        ``request_disk`` for each CPU, where there is no `disk`.
    gpus : int or None
        ``request_gpus``.
    packages : str or None
        ``"notebook"``: the worker has this process's Python and packages, and the modules beside the notebook;
        or the path of an environment that it shall have. Goes before a `container_image` and a `python` of the
        configuration, and not together with one that is given, but an image of the ``apptainer`` runtime.
    python : str
        The worker's Python, as the execute node or the image has it. Where none is given it is ``python`` in a
        container, and without one the Python that runs this, for a file system that the execute nodes share.
    worker_extra_args : tuple of str
        More arguments of ``dask worker``; none that change its name, its credentials or the number of processes.
    worker_port : str
        The port or range of ports (``first:last``) that workers listen on.
    interface : str or None
        The network interface that they listen on.
    relay : {'never', 'auto', 'always'}
        Which workers reach one another by what they dial to the scheduler's proxy, without an open port: none,
        those that do not reach each other directly, or all. With ``'auto'`` workers with a nanny do without.
    mapped_port : str or None
        Name of the container's port that HTCondor maps to one of the node, which the scheduler is told.
    scheduler_proxy : str or None
        ``HOST:PORT`` of the gateway's scheduler proxy, if workers see it under another name than the client.
    death_timeout : float or None
        How long a worker without a scheduler stays, in seconds. None: a minute, and longer where more than 600 jobs
        are submitted at once, a second for each ten: so many take their time to join through one proxy.
    start_interval : float
        Seconds between the first starts of workers that were asked for at once, so that a thousand do not read a
        shared file system at once. The slot waits meanwhile, in whole seconds. 0: no waiting.
    environment : dict of str to str or None
        Environment variables of the worker, beside those that Dask's configuration has for one
        (``distributed.nanny.pre-spawn-environ`` and ``environ``); None for one of these that is not to be set.
        Whoever may use the scheduler can read them: no secrets.
    job_script_prologue : tuple of str
        Shell lines that run before the worker starts.
    job_extra_directives : dict of str to str
        More lines of the submit description, such as ``{"accounting_group": "physics"}``.
    transfer_input_files : tuple of str
        More files, directories and addresses that go with each job into its directory.
    x509_proxy : bool or str
        The X.509 proxy that goes with each job: a path, or true for that of ``X509_USER_PROXY`` or in ``/tmp``.
    submit_command_extra : tuple of str
        More arguments of ``condor_submit``; none that name a schedd or change the number of jobs.
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
    image_prefix: str | None
    bind_job_directory: str | None
    transfer_container: bool | None
    cpus: int
    memory: int
    processes: int
    nanny: bool
    disk: int | None
    disk_per_cpu: int | None
    gpus: int | None
    packages: str | None
    python: str
    worker_extra_args: tuple[str, ...]
    worker_port: str
    interface: str | None
    relay: str
    mapped_port: str | None
    scheduler_proxy: str | None
    death_timeout: float | None
    start_interval: float
    environment: Mapping[str, str | None]
    job_script_prologue: tuple[str, ...]
    job_extra_directives: Mapping[str, str]
    transfer_input_files: tuple[str, ...]
    x509_proxy: bool | str
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
        KeywordError
            There is no such keyword. It is a `TypeError`, too.
        """
        keywords = fermilab.translated(keywords)
        check_known(keywords, KEYWORDS)
        values = {
            name: check(
                keywords[name] if name in keywords else config.get(f"worker.{name.replace('_', '-')}"), name
            )
            for name, check in _CHECKS.items()
        }
        own_python.choose(values, keywords)
        together.check(values)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads, for the scheduler's metadata."""
        data = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }
        sizes = {"disk": self.disk, "disk_per_cpu": self.disk_per_cpu}
        disks = {name: None if size is None else f"{size // KIB}K" for name, size in sizes.items()}
        return {**data, "memory": f"{self.memory_mib}M", **disks}

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
    def nthreads(self) -> int:
        """The threads of one worker: its share of the job's CPUs."""
        return self.cpus // self.processes

    @property
    def memory_limit(self) -> int:
        """The memory of one worker in bytes: its share of the job's."""
        return self.memory // self.processes

    def jobs(self, workers: int) -> int:
        """Return how many jobs have so many workers, rounded up to whole jobs."""
        return -(-workers // self.processes)

    @property
    def memory_mib(self) -> int:
        """The memory in MiB, as ``request_memory`` counts."""
        return self.memory // MIB

    @property
    def disk_kib(self) -> int | None:
        """The disk in KiB, as ``request_disk`` counts."""
        if self.disk is None:
            return None if self.disk_per_cpu is None else self.disk_per_cpu * self.cpus // KIB
        return self.disk // KIB

    @property
    def packages_image(self) -> bool:
        """Whether the packages are a squashfs that lies in the container."""
        return self.packages is not None and self.container_runtime == "apptainer"

    def __str__(self) -> str:
        parts = [counted(self.cpus, "CPU"), f"{format_bytes(self.memory)} of memory"]
        if self.processes > 1:
            parts.append(f"{self.processes} workers")
        if self.disk_kib:
            parts.append(f"{format_bytes(self.disk_kib * KIB)} of disk")
        if self.gpus:
            parts.append(counted(self.gpus, "GPU"))
        if self.packages:
            parts.append(f"with the packages of {'the ' * (self.packages == 'notebook')}{self.packages}")
        if self.container_image and self.container_runtime != "none":
            parts.append(f"in {self.container_image}")
        return ", ".join(parts)


_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "container_image": checks.optional(checks.text),
    "container_runtime": checks.runtime,
    "container_command": checks.text,
    "container_binds": checks.texts,
    "container_options": checks.texts,
    "image_prefix": checks.optional(sites.directory),
    "bind_job_directory": checks.optional(sites.directory),
    "transfer_container": checks.optional(checks.flag),
    "cpus": checks.count,
    "memory": lambda value, name: parse_amount(value, name, step=MIB),
    "processes": checks.count,
    "nanny": checks.flag,
    "disk": checks.optional(lambda value, name: parse_amount(value, name, step=KIB)),
    "disk_per_cpu": checks.optional(lambda value, name: parse_amount(value, name, step=KIB)),
    "gpus": checks.optional(checks.count),
    "packages": checks.optional(checks.text),
    "python": checks.optional(checks.text),
    "worker_extra_args": checks.worker_arguments,
    "worker_port": checks.ports,
    "interface": checks.optional(checks.text),
    "relay": relay.mode,
    "mapped_port": checks.optional(sites.port_name),
    "scheduler_proxy": checks.optional(checks.host_port),
    "death_timeout": checks.optional(config.parse_seconds),
    "start_interval": lambda value, name: config.parse_seconds(value, name, zero=True),
    "environment": checks.environment,
    "job_script_prologue": checks.texts,
    "job_extra_directives": checks.directives,
    "transfer_input_files": sites.input_files,
    "x509_proxy": sites.proxy,
    "submit_command_extra": checks.submit_arguments,
    "requirements": checks.optional(checks.expression),
    "rank": checks.optional(checks.expression),
    "log_directory": checks.optional(checks.text),
    "spool": checks.flag,
    "max_idle": checks.optional(checks.count),
    "max_idle_time": config.parse_seconds,
    "max_held_time": config.parse_seconds,
}


KEYWORDS = frozenset(_CHECKS)
"""The keywords of ``new_cluster`` that describe a worker; all others are the gateway server's."""

UNDERSTOOD = KEYWORDS | fermilab.ALIASES.keys()
"""These, and other libraries' words for some of them."""
