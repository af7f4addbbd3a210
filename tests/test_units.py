"""Amounts of memory and disk, read as HTCondor reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htcdaskgateway.errors import ConfigError
from htcdaskgateway.worker.units import KIB, MIB, format_bytes, parse_amount


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("32GB", 32 * 2**30),
        ("32 GiB", 32 * 2**30),
        ("32g", 32 * 2**30),
        ("1.5G", 3 * 2**29),
        ("2048", 2048 * MIB),
        (2048, 2048 * MIB),
        (1024.0, 1024 * MIB),
        ("1T", 2**40),
        ("512M", 512 * MIB),
        (" 4 GB ", 4 * 2**30),
        ("1500KB", 2 * MIB),  # rounded up to the step, as HTCondor counts
    ],
)
def test_memory_is_what_htcondor_understands(text, expected):
    assert parse_amount(text, "memory", step=MIB) == expected


def test_a_bare_number_of_disk_counts_kib():
    assert parse_amount("100", "disk", step=KIB) == 100 * KIB


@pytest.mark.parametrize(
    "wrong",
    ["32 GiBs", "", "0", 0, -1, "-4GB", "1e3", "lots", None, True, False, "4GB\n5GB", "nan", "0x10", "4 G B"],
)
def test_what_is_no_amount_is_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=r"memory=.*write a number and K, M, G or T"):
        parse_amount(wrong, "memory", step=MIB)


@given(st.integers(min_value=1, max_value=2**50))
def test_an_amount_in_words_is_the_same_amount(size):
    words = format_bytes(size)
    if words.endswith("iB"):
        assert parse_amount(words, "memory", step=KIB) == size
    else:
        assert words == f"{size} B"
