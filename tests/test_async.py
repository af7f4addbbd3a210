"""The asynchronous side: the same promises with ``asynchronous=True``, ``await`` and ``async with``."""

from __future__ import annotations

import asyncio

import dask.config
import pytest
from support import first_is_quick, wait_until
from tornado.ioloop import IOLoop

from htcdaskgateway import HTCGateway, HTCGatewayCluster
from htcdaskgateway.errors import ConfigError, SchedulerError
from htcdaskgateway.worker import staging

pytestmark = pytest.mark.core

NOWHERE = {"requirements": "HasNoSuchThing"}


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 150))


def test_the_main_job_runs_awaited(system, tool_calls, pool):
    async def main():
        async with HTCGateway(asynchronous=True) as gateway:
            assert gateway.asynchronous
            async with gateway.new_cluster() as cluster:
                assert isinstance(cluster, HTCGatewayCluster)
                assert cluster.asynchronous
                assert cluster.loop is IOLoop.current()
                await cluster.scale(2)
                await cluster.scale(2)
                assert len(tool_calls.calls_of("condor_submit")) == 1
                async with cluster.get_client(set_as_default=False) as client:
                    await client.wait_for_workers(2, timeout=60)
                    assert await client.submit(sum, [1, 2]) == 3
                await cluster.scale(1)
                assert len((await cluster.jobs()).live) == 1  # the other may not have left the queue yet
                assert "1 running" in repr(cluster) or "1 idle" in repr(cluster)
                name = cluster.name
            assert cluster.status == "closed"
            return name

    name = run(main())
    assert pool.jobs(name) == []
    assert not (staging.staging_root() / name / "credentials").exists()


def test_methods_of_a_gateway_can_be_awaited(system):
    async def main():
        async with HTCGateway(asynchronous=True, public_address="https://public.example.org") as gateway:
            assert (await gateway.get_versions())["server"]
            with dask.config.set({"gateway.cluster.options": {"image": "mine"}}):
                assert (await gateway.cluster_options()).image == "mine"
                options = await gateway.cluster_options(use_local_defaults=False)
            assert options.image == "daskgateway/dask-gateway:latest"
            name = await gateway.submit(cluster_options=options, memory="512MB", **NOWHERE)
            try:
                cluster = await gateway.connect(name)
                assert cluster.spec.memory_mib == 512
                assert cluster.dashboard_link == f"https://public.example.org/clusters/{name}/status"
                assert (await gateway.get_cluster(name)).status.name == "RUNNING"
                assert name in {report.name for report in await gateway.list_clusters(status="running")}
                await gateway.scale_cluster(name, 2)
                assert len(await cluster.jobs()) == 2
                await cluster.close()
            finally:
                await gateway.stop_cluster(name)
            assert name not in {report.name for report in await gateway.list_clusters()}
            await gateway.stop_cluster(name)  # and again is nothing
            return name

    name = run(main())
    assert not (staging.staging_root() / name / "credentials").exists()


@pytest.mark.parametrize("how", first_is_quick(["gateway.new_cluster", "class", "from_name"]))
def test_awaiting_a_cluster_starts_it_once(system, pool, how):
    async def main():
        async with HTCGateway(asynchronous=True) as gateway:
            if how == "class":
                cluster = HTCGatewayCluster(asynchronous=True, **NOWHERE)
            else:
                cluster = gateway.new_cluster(shutdown_on_close=how != "from_name", **NOWHERE)
            assert cluster.status == "created"
            with pytest.raises(SchedulerError, match="created"):
                await cluster.scale(1)
            assert await cluster is cluster
            assert await cluster is cluster
            assert cluster.status == "running"
            if how == "from_name":
                await cluster.close()
                cluster = await HTCGatewayCluster.from_name(cluster.name, shutdown_on_close=True, asynchronous=True)
            await cluster.scale(1)
            assert (
                repr(cluster)
                == f"HTCGatewayCluster<{cluster.name}, status=running, jobs: 0 running, 0 idle, 0 held>"
            )
            assert len(await cluster.jobs()) == 1
            assert "1 idle" in repr(cluster)
            await cluster.close()
            await cluster.close(shutdown=False)
            assert len(await gateway.list_clusters()) == 0
            return cluster.name

    assert pool.jobs(run(main())) == []


@pytest.mark.parametrize(("shutdown", "stays"), first_is_quick([(False, 1), (True, 0), (None, 0)]))
def test_closing_leaves_or_shuts_down_as_told(system, pool, shutdown, stays):
    async def main():
        async with HTCGateway(asynchronous=True) as gateway:
            cluster = await gateway.new_cluster(**NOWHERE)
            await cluster.scale(1)
            await cluster.close(shutdown=shutdown)
            try:
                assert len(pool.jobs(cluster.name)) == stays
                assert len(await gateway.list_clusters()) == stays
            finally:
                await gateway.stop_cluster(cluster.name)
            return cluster.name

    name = run(main())
    wait_until(lambda: not pool.jobs(name), what="the job is gone")


def test_adapting_that_is_not_awaited_begins_all_the_same(system, pool):
    async def main():
        async with HTCGateway(asynchronous=True) as gateway, gateway.new_cluster(**NOWHERE) as cluster:
            cluster.adapt(minimum=1, maximum=2, interval="0.1s")
            await asyncio.to_thread(wait_until, lambda: pool.jobs(cluster.name), what="a job is submitted")

    run(main())


def test_an_awaited_shutdown_leaves_no_job_and_no_key(system, pool):
    async def main():
        async with HTCGateway(asynchronous=True) as gateway, gateway.new_cluster(**NOWHERE) as cluster:
            await cluster.scale(2)
            await cluster.shutdown()
            return cluster.name

    name = run(main())
    assert pool.jobs(name) == []
    assert not (staging.staging_root() / name / "credentials").exists()


def test_bad_input_is_told_where_it_is_awaited(system, tool_calls):
    async def main():
        async with HTCGateway(asynchronous=True) as gateway:
            with pytest.raises(ConfigError, match="memory"):
                gateway.new_cluster(memory="32 GiBs")
            with pytest.raises(ValueError, match="nowhere"):
                await gateway.connect("nowhere")
            async with gateway.new_cluster(**NOWHERE) as cluster:
                for wrong in (-1, "3", 1.5, True, None):
                    with pytest.raises(ConfigError, match="whole number of"):
                        await cluster.scale(wrong)
                assert tool_calls.calls_of("condor_submit") == []

    run(main())


def test_the_loop_goes_on_while_jobs_are_submitted(system, tool_calls):
    tool_calls.script("condor_submit", f'sleep 1; exec "{tool_calls.real}/condor_submit" "$@"')

    async def main():
        async with HTCGateway(asynchronous=True) as gateway, gateway.new_cluster(**NOWHERE) as cluster:
            task = asyncio.ensure_future(cluster.scale(1))
            ticks = 0
            while not task.done():
                await asyncio.sleep(0.01)
                ticks += 1
            await task
            return ticks

    assert run(main()) > 20
