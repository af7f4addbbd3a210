"""Amounts of memory and disk, read as HTCondor reads them."""

from __future__ import annotations

import math
import re

from ..errors import ConfigError

KIB, MIB = 2**10, 2**20
_FACTOR = {"": 0, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(?:I?B)?)?", re.I | re.A)


def parse_amount(value: object, name: str, *, step: int) -> int:
    """Return `value`, an amount of memory or disk such as ``4096`` or ``"32GB"``, in bytes.

    HTCondor's manual, *Submit Description File Commands*, request_memory: ``K``, ``M``, ``G`` and ``T``, with or
    without a ``B``, are powers of 1024, so that ``32GB`` is what is elsewhere written 32 GiB. A number without a
    unit counts `step` bytes, `MIB` for memory and `KIB` for disk, and the result is rounded up to it.
    """
    match = None if isinstance(value, bool) else _AMOUNT.fullmatch(str(value).strip())
    size = 0
    if match:
        size = math.ceil(float(match[1]) * (_FACTOR[(match[2] or "").upper()] or step) / step) * step
    if size <= 0:
        raise ConfigError(
            f"{name}={value!r} is not an amount; write a number and K, M, G or T, such as '32GB' (32 GiB)"
        )
    return size


def format_bytes(size: int) -> str:
    """Return `size` bytes in words, such as ``32 GiB``; exact amounts stay exact."""
    for factor, unit in ((2**40, "TiB"), (2**30, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size} B"


def rounded_bytes(size: float | None) -> str:
    """Return a number of bytes with two or three digits, such as ``3.1 GiB``."""
    if size is None:
        return ""
    for factor, unit in ((2**40, "TiB"), (2**30, "GiB"), (MIB, "MiB")):
        if size >= factor:
            value = size / factor
            return f"{value:.0f} {unit}" if value >= 100 or value == int(value) else f"{value:.1f} {unit}"
    return f"{math.ceil(size / KIB)} KiB"
