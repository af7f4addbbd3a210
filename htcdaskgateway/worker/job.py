"""A worker's job: its submit description, its script and its command line, and how it may end."""

from __future__ import annotations

import contextlib
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dask.config

from .. import config
from .._version import __version__
from ..condor import templating
from ..condor.jobs import CLUSTER_ATTRIBUTE, NAME_PREFIX
from ..packages.packed import Packed
from . import checks, containers, relay, sending
from .own_python import PACKED
from .spec import WorkerSpec

EXIT_AGAIN = 75
"""How a worker that is still wanted ends (EX_TEMPFAIL of sysexits.h); its job runs again."""

EXIT_CANNOT = 78
"""How a worker ends whose Python has no dask (EX_CONFIG), as in ``remote/worker_start.py``."""

EXIT_UNNAMED = 79
"""How the worker script ends that cannot read its job's ad, which names the worker."""

EXIT_NO_PYTHON = 80
"""How the worker script ends that does not find the worker's Python."""

EXIT_RESEND = 76
"""How the worker script ends that does not find packages which its node was known to have; they are sent then."""

EXIT_NODE = 81
"""How the worker script ends on a node that the packages are not for."""

EXIT_UNPACK = 82
"""How the worker script ends that cannot unpack the packages."""

EXIT_UNREACHABLE = 83
"""How a worker ends that has never reached the gateway's proxy, as in ``remote/worker_preload.py``."""

DEATH_TIMEOUT = 60
"""How long a worker without a scheduler stays by default, in seconds; the script gives more to a large crowd."""

LEAST_DISK_KIB = 2**20
"""What is requested beside the room for the input files where no ``disk`` is asked for: 1 GiB."""

SPOOL_SPEED = 2**20
"""How many bytes a schedd has to take in at least in a second, for the time limit of a spooled submit."""

MAX_FAILURES = 3
"""How often a worker may fail before its job is held."""

REMOTE_FILES = ("worker_start.py", "worker_preload.py")
"""What goes with the job beside its credentials, and runs where this package is not installed."""

LEASE = 600
"""How long a job whose machine has died counts as running, in seconds; ``job_extra_directives`` may change it."""


def job_files(
    cluster: str, spec: WorkerSpec, scheduler_address: str, logs: str, packed: Packed | None = None
) -> dict[str, str]:
    """Return the text of the job's files by their names; `logs` is where the submit description puts the output."""
    asked: Any = None
    files: tuple[str, ...] = REMOTE_FILES
    texts: dict[str, str] = {}
    if packed is not None:
        from ..packages import sending as packages

        asked = packages.request(packed, plainly=spec.spool or spec.max_idle is not None)
        files += packages.scripts(packed)
        exits = {"EXIT_RESEND": EXIT_RESEND, "EXIT_NODE": EXIT_NODE, "EXIT_UNPACK": EXIT_UNPACK}
        texts[packages.conf(packed)] = packages.settings(packed, **exits)
    shared = {
        "cluster": cluster,
        "spec": spec,
        "version": __version__,
        "name_prefix": NAME_PREFIX,
        "exit_unnamed": EXIT_UNNAMED,
        "exit_no_python": EXIT_NO_PYTHON,
        "packages": asked,
    }
    description = templating.render(
        "worker.sub.j2",
        **shared,
        logs=logs,
        cluster_attribute=CLUSTER_ATTRIBUTE,
        exit_again=EXIT_AGAIN,
        max_failures=MAX_FAILURES,
        vacate_time=config.seconds("retire-timeout"),
        proxy=sending.proxy_file(spec),
        image_is_sent=containers.is_sent(spec),
        exit_cannot=EXIT_CANNOT,
        least_disk_kib=LEAST_DISK_KIB,
        exit_resend=EXIT_RESEND,
        exit_node=EXIT_NODE,
        exit_unpack=EXIT_UNPACK,
        exit_unreachable=EXIT_UNREACHABLE,
        scheduler_proxy=proxy_of(spec, scheduler_address),
        lease=LEASE,
        spool_base=config.seconds("condor.timeout"),
        spool_each=spool_seconds(spec),
    )
    script = templating.render(
        "worker.sh.j2",
        **shared,
        environment=worker_environment(cluster, spec),
        command=worker_command(cluster, spec, scheduler_address),
        apptainer=spec.container_runtime == "apptainer",
        container_prefix=container_prefix(spec),
    )
    remote = resources.files("htcdaskgateway.remote")
    texts |= {"worker.sub": description, "worker.sh": script}
    texts |= {name: remote.joinpath(name).read_text(encoding="utf-8") for name in files}
    if spec.relay != "never" and not spec.nanny:  # who has a nanny needs its port anyway
        texts["worker_preload.py"] += relay.preload(spec.relay)
    return texts


def spool_seconds(spec: WorkerSpec) -> int:
    """Return how many seconds more a spooled submit may take for each of its jobs."""
    size = 0
    if containers.is_sent(spec):
        with contextlib.suppress(OSError):  # an address, or what the submit itself will complain of
            size = Path(spec.container_image or "").stat().st_size
    return 1 + -(-size // SPOOL_SPEED)


def proxy_of(spec: WorkerSpec, scheduler_address: str) -> str:
    """Return the host and port at which workers reach the scheduler."""
    return spec.scheduler_proxy or urlsplit(scheduler_address).netloc


def worker_command(cluster: str, spec: WorkerSpec, scheduler_address: str) -> list[str]:
    """Return the command line of a worker, without what differs from one start of a job to the next."""
    command = [spec.python, "worker_start.py", f"tls://{proxy_of(spec, scheduler_address)}"]
    options = {
        "--scheduler-sni": f"daskgateway-{cluster}",
        "--tls-ca-file": "dask.crt",
        "--tls-cert": "dask.crt",
        "--tls-key": "dask.pem",
        "--preload": "worker_preload.py",
        "--preload-nanny": "worker_preload.py" if spec.nanny else None,
        "--nworkers": str(spec.processes) if spec.processes > 1 else None,
        "--nthreads": str(spec.nthreads),
        "--memory-limit": str(spec.memory_limit),
        "--death-timeout": f"{spec.death_timeout or DEATH_TIMEOUT:g}",
        "--worker-port": None if spec.mapped_port else spec.worker_port,
        # Dask takes the contact address, which the script adds, beside this one alone.
        "--listen-address": f"tls://0.0.0.0:{spec.worker_port}" if spec.mapped_port else None,
        "--nanny-port": spec.worker_port if spec.nanny else None,
        "--interface": spec.interface,
        # Health and metrics are served over plain HTTP: to this machine only.
        "--dashboard-address": "127.0.0.1:0",
    }
    for option, value in options.items():
        if value is not None:
            command += [option, value]
    # worker_start.py restarts a worker, and nothing but the scheduler's dashboard is reachable through the gateway.
    if spec.python == PACKED:
        command += ["--preload", "packages_preload.py"]
    return [*command, "--nanny" if spec.nanny else "--no-nanny", "--no-dashboard"]


def worker_environment(cluster: str, spec: WorkerSpec) -> dict[str, str]:
    """Return the environment variables of a worker.

    No nanny starts it, so that what Dask's configuration has for a nanny to set is set here: one thread for an
    operation of NumPy, for one, because a worker runs as many operations at once as it has threads. HTCondor's own
    value is the number of CPUs.
    """
    variables: dict[str, str | None] = {}
    for key in ("distributed.nanny.pre-spawn-environ", "distributed.nanny.environ"):
        variables |= checks.environment(dask.config.get(key, {}), key)
    variables |= {**spec.environment, "DASK_GATEWAY_CLUSTER_NAME": cluster}
    return {name: value for name, value in variables.items() if value is not None}


def container_prefix(spec: WorkerSpec) -> str:
    """Return what the name of a variable begins with that the worker script hands into the container."""
    if spec.container_runtime != "apptainer":
        return ""
    return "SINGULARITYENV_" if Path(spec.container_command).name.startswith("singularity") else "APPTAINERENV_"
