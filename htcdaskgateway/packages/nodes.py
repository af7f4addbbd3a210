"""What the pool's nodes have: which of them the packages can run on, and which are known to have them."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Mapping, Sequence

from .. import config
from ..condor.machines import systems
from ..condor.quoting import quote_classad
from ..condor.schedd import Condor
from ..errors import CondorError, ConfigError, PackagesError
from ..files import write_private
from .keeping import cache
from .packed import Packed

logger = logging.getLogger(__name__)

# The minor version of the glibc 2 that a system has, by HTCondor's name for it.
GLIBC_OF = {
    **{f"{name}7": 17 for name in ("CentOS", "RedHat", "SL", "OracleLinux")},
    **{f"{name}8": 28 for name in ("AlmaLinux", "CentOS", "RedHat", "Rocky", "OracleLinux")},
    **{f"{name}9": 34 for name in ("AlmaLinux", "CentOS", "RedHat", "Rocky", "OracleLinux")},
    **{f"{name}10": 39 for name in ("AlmaLinux", "CentOS", "RedHat", "Rocky", "OracleLinux")},
    **{"Debian10": 28, "Debian11": 31, "Debian12": 36, "Debian13": 41},
    **{"Ubuntu18": 27, "Ubuntu20": 31, "Ubuntu22": 35, "Ubuntu24": 39},
    **{"openSUSE15": 31, "SLES15": 31, "AmazonLinux2": 26, "AmazonLinux2023": 34},
}
_ARCHITECTURES = {"x86_64": "X86_64", "aarch64": "aarch64", "ppc64le": "ppc64le"}
# How long it is believed that a machine has what it had, in seconds.
_BELIEVED = 14 * 86400.0
_KNOWN = "nodes.json"


def _too_old(packed: Packed) -> list[str]:
    if packed.binds:  # the glibc is the image's
        return []
    return sorted(name for name, glibc in GLIBC_OF.items() if glibc < packed.glibc)


def requirements(packed: Packed) -> str:
    """Return the ClassAd expression of the machines that can run the packages; an unknown system passes."""
    architecture = _ARCHITECTURES.get(packed.machine, packed.machine)
    found = f"(TARGET.Arch == {quote_classad(architecture)})"
    old = ",".join(_too_old(packed))
    return f"{found} && (stringListIMember(TARGET.OpSysAndVer, {quote_classad(old)}) =!= true)" if old else found


async def check(condor: Condor, packed: Packed) -> None:
    """Check that some machine of the pool can run the packages.

    A pool that shows none at the moment passes, and so does one that does not answer.

    Raises
    ------
    PackagesError
        None can; the message says what they have and what is needed.
    """
    try:
        found = await systems(condor)
    except CondorError as error:
        logger.warning("cannot tell whether the pool's machines can run the packages: %s", error.message)
        return
    architecture = _ARCHITECTURES.get(packed.machine, packed.machine)
    fitting = [system for arch, system in found if arch.lower() == architecture.lower()]
    if found and not fitting:
        raise PackagesError(
            f"no machine of the pool has the architecture of the packages, {architecture}; the machines have "
            f"{', '.join(sorted({arch for arch, _ in found}))}. Use a container_image for these"
        )
    old = {name.lower() for name in _too_old(packed)}
    if fitting and all(system.lower() in old for system in fitting):
        lower = {name.lower(): glibc for name, glibc in GLIBC_OF.items()}
        newest = max(fitting, key=lambda system: lower[system.lower()])
        raise PackagesError(
            f"the packages need glibc 2.{packed.glibc}, and the newest that a machine of the pool has is "
            f"2.{lower[newest.lower()]} ({newest}). Make the environment with uv's own Python "
            "(`uv venv --managed-python`), which runs on older systems, or use a container_image"
        )


def directories() -> Sequence[str]:
    """Return the directories of the nodes that may keep packages, as they are configured."""
    value = config.get("packages.node-directories") or []
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(item, str) and item.startswith("/") and ":" not in item and item.isprintable() for item in value
    ):
        raise ConfigError(f"htcdaskgateway.packages.node-directories={value!r} is not a list of absolute paths")
    return value


def known(packed: Packed) -> list[str]:
    """Return the machines that had the base of the packages when they were last heard of."""
    now = time.time()
    return sorted(name for name, seen in _noted().get(_place(packed.base), {}).items() if now - seen < _BELIEVED)


def _place(base: str) -> str:
    """Return what the machines are noted for: what they keep elsewhere does not help a job that looks here."""
    return ":".join([base, *directories()])


def note(packed: Packed, machines: set[str]) -> bool:
    """Keep in mind that these machines have them; return whether that was news."""
    if machines <= set(known(packed)):
        return False
    noted, now = _noted(), time.time()
    for key in {_place(packed.base), _place(packed.key)}:
        noted[key] = {**noted.get(key, {}), **dict.fromkeys(machines, now)}
    fresh = {
        key: {name: seen for name, seen in names.items() if now - seen < _BELIEVED} for key, names in noted.items()
    }
    write_private(cache() / "known" / _KNOWN, json.dumps({key: names for key, names in fresh.items() if names}))
    return True


def _noted() -> dict[str, dict[str, float]]:
    with contextlib.suppress(OSError, ValueError):  # none yet
        found: Mapping[str, dict[str, float]] = json.loads((cache() / "known" / _KNOWN).read_text(encoding="utf-8"))
        return dict(found)
    return {}
