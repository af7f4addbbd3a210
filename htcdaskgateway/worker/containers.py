"""Say before anything is submitted that a container image is not there, or that no slot can run it."""

from __future__ import annotations

import logging
from pathlib import Path

from .. import config
from ..condor.schedd import Condor
from ..errors import CondorError, ConfigError, ContainerError
from .checks import is_address
from .spec import WorkerSpec

logger = logging.getLogger(__name__)

# How long a look at the pool's slots may hold up a new cluster, in seconds.
_SLOTS_TIMEOUT = 15.0


def check_image(spec: WorkerSpec) -> None:
    """Check that the image of `spec` exists, where this machine can tell.

    It cannot tell for an address (``docker://…``), for a path below one of the configured
    ``container-unseen-prefixes``, for one of whose directories not even the first exists here, or where it may
    not look.
    """
    image = spec.container_image
    if image is None or is_address(image):
        return
    path = Path(image)
    prefixes = _unseen_prefixes()
    if any(prefix == path or prefix in path.parents for prefix in prefixes):
        return
    if len(path.parts) > 2 and not Path(*path.parts[:2]).exists():
        logger.info("cannot see from here whether %s exists", image)
        return
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        there = next(parent for parent in path.parents if parent.is_dir())
        names = ", ".join(map(str, prefixes)) or "none"
        raise ContainerError(
            f"container_image={image!r} does not exist; {there} does. If only the execute nodes see the image, "
            "add its directory to "
            f"htcdaskgateway.container-unseen-prefixes (now: {names})"
        ) from None
    except OSError as error:
        logger.info("cannot see from here whether %s exists: %s", image, error)
        return
    if path.is_file() and found.st_size == 0:
        raise ContainerError(f"container_image={image!r} is an empty file")


def is_sent(spec: WorkerSpec) -> bool:
    """Tell whether HTCondor sends the image along with each job, rather than take it from its path.

    Unless it was said: a file is, as it always was, and a directory is not, because HTCondor sends none that has a
    link to a directory in it, and every system has (``/bin -> usr/bin``).
    """
    if spec.container_runtime == "singularity-image":
        return False
    if spec.transfer_container is not None:
        return spec.transfer_container
    image = spec.container_image or ""
    return image.endswith(".sif") or is_address(image) or Path(image).is_file()


def _unseen_prefixes() -> list[Path]:
    value = config.get("container-unseen-prefixes") or []
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) and item for item in value):
        raise ConfigError(f"htcdaskgateway.container-unseen-prefixes={value!r} is not a list of directories")
    return [Path(item).expanduser() for item in value]


async def check_slots(condor: Condor, spec: WorkerSpec) -> None:
    """Check that some slot of the pool could start the container of `spec`, where HTCondor is to do that.

    A pool that shows no slot at all, as an elastic one may at the moment, passes, and so does one that does not
    answer: only what is known to be wrong is an error.
    """
    if spec.container_image is None or spec.container_runtime != "htcondor" or not config.get("check-slots"):
        return
    kind, attribute = _needed(spec.container_image)
    try:
        if await condor.has_slot(f"HasContainer =?= true && {attribute} =?= true", timeout=_SLOTS_TIMEOUT):
            return
        if not await condor.has_slot("true", timeout=_SLOTS_TIMEOUT):
            logger.info("the pool shows no slot now; cannot tell whether it runs containers")
            return
    except CondorError as error:
        logger.warning("Cannot tell whether the pool's slots run containers: %s", error.message)
        return
    raise ContainerError(
        f"No slot of the pool can run container_image={spec.container_image!r}: HTCondor starts {kind} only where "
        f"HasContainer and {attribute} are true. The jobs would wait for ever. See `condor_status -af Name "
        f"HasContainer {attribute}`. Ask for Apptainer on the execute nodes, or pass container_runtime='apptainer' "
        "if the nodes have `apptainer` but HTCondor does not know, or 'none' and a python=… that the nodes have. "
        "htcdaskgateway.check-slots: false turns this check off."
    )


def _needed(image: str) -> tuple[str, str]:
    """Return what condor_submit takes an image for, and the attribute of a slot that it then requires."""
    if image.startswith("docker:"):
        return "a Docker image", "HasDockerURL"
    if image.endswith(".sif"):
        return "a .sif file", "HasSIF"
    return "a directory", "HasSandboxImage"
