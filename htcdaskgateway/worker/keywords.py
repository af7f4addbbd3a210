"""What a keyword is called here that people know from dask-jobqueue, Dask or HTCondor."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ..errors import KeywordError

_OURS = {
    "cpus": ("cores", "cpu", "ncores", "n_cores", "ncpus", "nthreads", "threads_per_worker", "request_cpus"),
    "memory": ("mem", "ram", "memory_limit", "worker_memory", "request_memory"),
    "disk": ("request_disk",),
    "gpus": ("gpu", "ngpus", "n_gpus", "request_gpus"),
    "processes": ("n_processes", "nprocs", "nworkers_per_job"),
    "container_image": ("image", "docker_image", "singularity_image", "worker_image"),
    "worker_extra_args": ("extra", "worker_options"),
    "job_script_prologue": ("env_extra",),
    "job_extra_directives": ("job_extra", "extra_directives"),
    "environment": ("env", "worker_env", "environ"),
    "log_directory": ("log_dir", "logs"),
    "scheduler_proxy": ("contact_address",),
}
_INSTEAD = {
    "scale(n) on the cluster": ("n_workers", "workers", "num_workers", "n", "jobs", "maximum_jobs", "minimum_jobs"),
    "adapt(minimum=…, maximum=…) on the cluster": ("minimum", "maximum"),
    "requirements=…: HTCondor has no queues": ("queue", "partition"),
    "job_extra_directives={'accounting_group': …}": ("project", "account", "accounting_group"),
    "job_extra_directives={'allowed_execute_duration': …}": ("walltime", "time_limit"),
    "htcdaskgateway.condor.schedd and .pool in the configuration": ("cancel_command_extra", "schedd", "pool"),
    "nothing: workers use their job's scratch directory": ("local_directory", "local_dir"),
    "nothing: the gateway server sets the scheduler up": ("scheduler_options", "dashboard_address"),
    "nothing: the gateway server makes the certificates": ("security", "protocol"),
    "nothing: jobs have their cluster's name": ("job_name", "name"),
}
_WORDS = {word: f"{right}=…" for right, words in _OURS.items() for word in words}
_WORDS.update({word: right for right, words in _INSTEAD.items() for word in words})


def meant(name: str, known: Collection[str]) -> str:
    """Return what to write in place of the keyword `name`, or nothing if that is not clear."""
    if name in _WORDS:
        return _WORDS[name]
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.8)
    return f"{near[0]}=…" if near else ""


def check_known(given: Collection[str], known: Collection[str]) -> None:
    """Refuse the first keyword that a worker does not have, with the word for it."""
    for name in sorted(given):
        if name not in known:
            word = meant(name, known)
            hint = f"use {word}" if word else f"it has {', '.join(sorted(known))}"
            raise KeywordError(f"A worker has no option {name!r}; {hint}")


@contextlib.contextmanager
def hints(given: Mapping[str, Any], known: Collection[str]) -> Iterator[None]:
    """Name our word for a keyword that the gateway server refuses: it may have an option of that name."""
    try:
        yield
    except ValueError as error:
        told = str(error)
        words = {name: meant(name, known) for name in given if repr(name) in told}
        found = "; ".join(f"in place of {name}= use {word}" for name, word in words.items() if word)
        if not found:
            raise
        raise KeywordError(f"Neither a worker nor the gateway server has this option: {found}. ({told})") from error
