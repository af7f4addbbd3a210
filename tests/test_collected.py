"""Clients that nobody holds any more are closed by the garbage collector, wherever it comes by."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from distributed.utils import LoopRunner
from support import PATIENCE, wait_until

from htcdaskgateway import HTCGateway
from htcdaskgateway.client.finalizing import finalize
from htcdaskgateway.errors import ConfigError


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


@pytest.mark.parametrize("where", ["a thread", "the main thread"])
def test_a_gateway_collected_in_a_thread_whose_loop_is_to_begin_does_not_block_it(system: Any, where: str) -> None:
    gc.disable()
    try:
        lost = system.gateway()
        runner = lost._loop_runner
        lost.cycle = lost
        del lost
        with LoopRunner._lock:  # as `LoopRunner.start` has it while it waits for the thread
            if where == "the main thread":
                gc.collect()
            else:
                thread = threading.Thread(target=gc.collect, daemon=True)
                thread.start()
                thread.join(20)
                assert not thread.is_alive()
    finally:
        gc.enable()
    wait_until(lambda: not runner.is_started(), what="the lost gateway is closed")


def test_a_failed_connect_leaves_a_gateway_that_works(gateway: Any) -> None:
    gc.disable()
    try:
        with pytest.raises(ValueError, match="nosuchcluster"):
            gateway.connect("nosuchcluster")
        _in_time(gateway, _collect())
    finally:
        gc.enable()
    assert gateway.list_clusters() == []


def _scaled(cluster: Any) -> None:
    cluster.scale(1)
    cluster.wait_for_workers(1, timeout=PATIENCE)
    cluster.check_versions()
    repr(cluster), cluster.explain(), cluster.logs()


def _watched(cluster: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        cluster._ipython_display_()


def _failed(cluster: Any) -> None:
    with pytest.raises(ConfigError):
        cluster.scale(-1)


@pytest.mark.parametrize(
    "use",
    [
        lambda _: None,
        pytest.param(_scaled, marks=pytest.mark.long),
        *(_watched, _failed, lambda cluster: cluster.adapt(maximum=1)),
    ],
)
def test_a_cluster_that_nobody_holds_is_shut_down_at_once(gateway: Any, use: Callable[[Any], None]) -> None:
    """Else it is when the garbage collector comes by, which may be never."""
    gc.collect()
    gc.disable()
    try:
        cluster = gateway.new_cluster()
        known = weakref.ref(cluster)
        use(cluster)
        del cluster
        # The view may be looking at it at this moment.
        wait_until(lambda: known() is None, what="nothing holds the cluster")
        wait_until(lambda: not gateway.list_clusters(), what="the cluster is shut down")
    finally:
        gc.enable()
        for report in gateway.list_clusters():
            gateway.stop_cluster(report.name)


def test_off_a_loop_closing_is_done_at_once() -> None:
    done = []
    finalize(lambda: done.append(time.monotonic()))
    assert done


def test_a_ctrl_c_that_meets_a_garbage_collection_is_not_lost() -> None:
    """Python drops the exceptions of the functions that it calls at each collection."""
    program = "import gc, htcdaskgateway.cluster, htcdaskgateway.gateway\nprint(gc.callbacks)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_ctrl_c_that_meets_the_end_of_a_cluster_that_is_let_go_of_is_not_lost() -> None:
    class Cluster:
        def __del__(self) -> None:
            finalize(lambda: signal.raise_signal(signal.SIGINT))

    def let_go() -> None:
        Cluster()
        wait_until(lambda: False, what="the Ctrl-C comes")

    with pytest.raises(KeyboardInterrupt):
        let_go()
