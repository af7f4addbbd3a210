"""Clients that nobody holds any more are closed by the garbage collector, wherever it comes by."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest
from support import wait_until

from htcdaskgateway import HTCGateway
from htcdaskgateway.gateway import finalize


async def _collect() -> int:
    return gc.collect()


def _in_time(gateway: HTCGateway, coroutine: Any) -> None:
    asyncio.run_coroutine_threadsafe(coroutine, gateway.loop.asyncio_loop).result(20)


def test_a_gateway_collected_on_its_own_loop_does_not_block_it(gateway: Any, system: Any) -> None:
    gc.disable()
    try:
        lost = system.gateway(loop=gateway.loop)
        lost.list_clusters()
        runner = lost._loop_runner
        lost.cycle = lost
        del lost
        _in_time(gateway, _collect())
    finally:
        gc.enable()
    wait_until(lambda: not runner.is_started(), what="the lost gateway is closed")
    assert gateway.list_clusters() == []


def test_a_failed_connect_leaves_a_gateway_that_works(gateway: Any) -> None:
    gc.disable()
    try:
        with pytest.raises(ValueError, match="nosuchcluster"):
            gateway.connect("nosuchcluster")
        _in_time(gateway, _collect())
    finally:
        gc.enable()
    assert gateway.list_clusters() == []


def test_off_a_loop_closing_is_done_at_once() -> None:
    done = []
    finalize(lambda: done.append(time.monotonic()))
    assert done
