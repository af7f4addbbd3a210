"""What ``Gateway`` and ``GatewayCluster`` promise, ``HTCGateway`` and ``HTCGatewayCluster`` keep: the sync side.

Scaling is in test_scaling.py, the async side in test_async.py.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import dask.config
import pytest
from dask_gateway import Gateway, GatewayCluster
from dask_gateway.auth import BasicAuth
from dask_gateway.client import ClusterStatus
from distributed import default_client
from distributed.utils import LoopRunner
from support import wait_until

from htcdaskgateway import HTCGateway, HTCGatewayCluster, WorkerSpec
from htcdaskgateway.errors import ConfigError, SchedulerError
from htcdaskgateway.remote import scheduler_plugin
from htcdaskgateway.worker import staging

pytestmark = pytest.mark.core


@pytest.fixture(scope="module")
def standing(system):
    """A cluster without workers that several tests only look at."""
    with system.gateway() as gateway, gateway.new_cluster() as cluster:
        yield cluster


def names(gateway, **keywords):
    return {report.name for report in gateway.list_clusters(**keywords)}


def gone(gateway, name):
    """Wait until the server counts the cluster as gone, and check that no credential is left."""
    wait_until(lambda: name not in names(gateway), what=f"the server has stopped {name}")
    assert not (staging.staging_root() / name / "credentials").exists()
    return True


# The gateway


def test_without_arguments_everything_comes_from_the_configuration(system):
    with HTCGateway() as gateway:
        assert gateway.address == system.address
        assert gateway.proxy_address == f"gateway://127.0.0.1:{system.proxy_address}"
        assert gateway.list_clusters() is not None
    assert isinstance(gateway, Gateway)
    assert repr(gateway) == f"HTCGateway<{system.address}>"


def test_each_argument_is_honoured(system):
    auth = BasicAuth(username="somebody", password=system.password)
    with HTCGateway(
        address=system.address + "/",
        proxy_address=f"gateway://127.0.0.1:{system.proxy_address}",
        public_address="https://public.example.org/dask/",
        auth=auth,
    ) as gateway:
        assert gateway.address == system.address
        assert gateway.proxy_address == f"gateway://127.0.0.1:{system.proxy_address}"
        assert gateway.auth is auth
        assert not gateway.asynchronous
        assert gateway.get_versions()["server"]


def test_a_wrong_password_is_told(system):
    with (
        HTCGateway(system.address, auth=BasicAuth(password="wrong")) as gateway,
        pytest.raises(Exception, match="401"),
    ):
        gateway.list_clusters()


def test_a_loop_that_runs_already_is_used(system):
    runner = LoopRunner()
    runner.start()
    try:
        with HTCGateway(loop=runner.loop) as gateway:
            assert gateway.loop is runner.loop
            assert gateway.get_versions()
        assert runner.loop.asyncio_loop.is_running()
    finally:
        runner.stop()


def test_closing_twice_and_letting_go_is_quiet(system):
    gateway = HTCGateway()
    gateway.list_clusters()
    gateway.close()
    gateway.close()
    del gateway
    gc.collect()  # an exception in __del__ would fail this test


def test_the_versions_of_client_and_server_are_told(gateway):
    versions = gateway.get_versions()
    assert versions["server"]["version"]
    assert versions["client"]["version"]


def test_clusters_are_listed_by_status(gateway, standing):
    assert standing.name in names(gateway)
    for status in ("running", ["running", "pending"], ClusterStatus.RUNNING):
        assert standing.name in names(gateway, status=status)
    assert standing.name not in names(gateway, status="failed")


def test_get_cluster_tells_of_a_cluster_and_refuses_a_name_that_is_none(gateway, standing):
    report = gateway.get_cluster(standing.name)
    assert (report.name, report.status) == (standing.name, ClusterStatus.RUNNING)
    assert report.scheduler_address == standing.scheduler_address
    with pytest.raises(ValueError, match="nowhere"):
        gateway.get_cluster("nowhere")


def test_cluster_options_have_the_servers_defaults_and_the_users(gateway):
    with dask.config.set({"gateway.cluster.options": {"image": "of-the-user"}}):
        assert gateway.cluster_options().image == "of-the-user"
        assert gateway.cluster_options(use_local_defaults=False).image == "daskgateway/dask-gateway:latest"


def test_the_servers_options_reach_it_and_a_workers_do_not(gateway, new_cluster):
    options = gateway.cluster_options()
    options.image = "of-the-options"
    cluster = new_cluster(cluster_options=options, cpus=2, memory="512MB", container_runtime="none")
    assert gateway.get_cluster(cluster.name).options == {"image": "of-the-options"}
    assert (cluster.spec.cpus, cluster.spec.memory) == (2, 512 * 2**20)
    other = new_cluster(image="of-the-keywords", gpus=1)
    assert gateway.get_cluster(other.name).options == {"image": "of-the-keywords"}
    assert other.spec.gpus == 1


def test_submit_now_and_connect_later(gateway, pool):
    name = gateway.submit(image="later", memory="512MB")
    try:
        assert gateway.get_cluster(name).options == {"image": "later"}
        with gateway.connect(name) as cluster:
            assert isinstance(cluster, HTCGatewayCluster)
            assert (cluster.name, cluster.status) == (name, "running")
            assert cluster.spec.memory == 512 * 2**20
        assert name in names(gateway)  # closing what was connected leaves it
        with gateway.connect(name, shutdown_on_close=True) as cluster:
            assert cluster.spec.memory == 512 * 2**20  # the scheduler has kept it
    finally:
        gateway.stop_cluster(name)
    assert gone(gateway, name)


def test_a_cluster_is_stopped_by_its_name_with_its_jobs(gateway, pool):
    cluster = gateway.new_cluster(shutdown_on_close=False, requirements="HasNoSuchThing")
    cluster.scale(2)
    assert (staging.staging_root() / cluster.name / "credentials" / "dask.pem").exists()
    cluster.close()
    gateway.stop_cluster(cluster.name)
    assert pool.jobs(cluster.name) == []
    assert gone(gateway, cluster.name)


def test_a_cluster_that_the_server_has_forgotten_is_stopped_too(gateway, pool, stage):
    """Its jobs and its credentials are all that is left of it."""
    made = staging.Staging("forgotten", WorkerSpec.from_keywords(requirements="HasNoSuchThing"))
    made.write("gateway://127.0.0.1:8786/forgotten", "CERTIFICATE", "KEY")
    pool.run("condor_submit", "worker.sub", "-queue", 2, cwd=made.directory)
    assert pool.statuses("forgotten") == [1, 1]
    gateway.stop_cluster("forgotten")
    assert pool.jobs("forgotten") == []
    assert not (made.directory / "credentials").exists()
    gateway.stop_cluster("forgotten")  # and again is nothing


def test_a_cluster_is_scaled_by_its_name(gateway, pool):
    cluster = gateway.new_cluster(requirements="HasNoSuchThing")
    with cluster:
        gateway.scale_cluster(cluster.name, 3)
        assert pool.statuses(cluster.name) == [1, 1, 1]
        gateway.scale_cluster(cluster.name, 1)
        assert pool.statuses(cluster.name) == [1]
        assert len(cluster.jobs().live) == 1
    assert pool.jobs(cluster.name) == []


# The cluster


def test_a_scheduler_keeps_the_newest_plugin_of_all_its_clients(new_cluster, monkeypatch, tmp_path):
    cluster = new_cluster()
    source, own = Path(scheduler_plugin.__file__).read_text(), scheduler_plugin.VERSION

    def install(version):
        (tmp_path / "scheduler_plugin.py").write_text(
            source.replace(f"\nVERSION = {own}\n", f"\nVERSION = {version}\n")
        )
        with monkeypatch.context() as patched:
            patched.setattr(scheduler_plugin, "VERSION", version)
            patched.setattr("htcdaskgateway.scheduler.link.resources.files", lambda package: tmp_path)
            cluster.gateway.sync(cluster.fleet.scheduler.install)

    def plugins(dask_scheduler):
        found = dask_scheduler.plugins.items()
        return {plugin.version: plugin.active for name, plugin in found if name.startswith("htcdaskgateway")}

    cluster.scale(1)
    with cluster.get_client() as client:
        client.wait_for_workers(1, timeout=60)
        install(own - 1)
        assert client.run_on_scheduler(plugins) == {own - 1: False, own: True}
        install(own + 1)
        assert client.run_on_scheduler(plugins) == {own + 1: True}
    assert cluster.gateway.sync(cluster.fleet.scheduler.counts) == (1, 0, 0)


def test_a_cluster_class_called_directly(gateway, pool):
    with HTCGatewayCluster(image="direct", memory="512MB", requirements="HasNoSuchThing") as cluster:
        assert isinstance(cluster, GatewayCluster)
        assert isinstance(cluster.gateway, HTCGateway)
        assert gateway.get_cluster(cluster.name).options == {"image": "direct"}
        cluster.scale(1)
        with HTCGatewayCluster.from_name(cluster.name) as same:
            assert [job.id for job in same.jobs()] == [job.id for job in cluster.jobs()]
            assert same.spec == cluster.spec
        assert pool.statuses(cluster.name) == [1]
    assert pool.jobs(cluster.name) == []
    assert gone(gateway, cluster.name)


def test_the_public_address_leads_to_the_dashboard(system, standing):
    public = "https://public.example.org/dask"
    assert standing.dashboard_link == f"{system.address}/clusters/{standing.name}/status"
    with system.gateway(public_address=public + "/") as gateway:
        with gateway.connect(standing.name) as cluster:
            assert cluster.dashboard_link == f"{public}/clusters/{standing.name}/status"
        with gateway.new_cluster() as cluster:
            assert cluster.dashboard_link == f"{public}/clusters/{cluster.name}/status"
        report = next(report for report in gateway.list_clusters() if report.name == standing.name)
        assert report.dashboard_link == f"{public}/clusters/{standing.name}/status"
    with HTCGatewayCluster.from_name(standing.name, public_address=public) as cluster:
        assert cluster.dashboard_link.startswith(public)


def test_a_client_is_the_default_one_unless_told(standing):
    client = standing.get_client(set_as_default=False)
    with pytest.raises(ValueError, match="No client"):
        default_client()
    client.close()
    with standing.get_client() as client:
        assert default_client() is client
        assert client.run_on_scheduler(os.getpid)


def test_closing_leaves_or_shuts_down_as_told(gateway, pool):
    for keywords, close, stays in (
        ({"shutdown_on_close": False}, {}, True),
        ({}, {"shutdown": False}, True),
        ({}, {}, False),
        ({"shutdown_on_close": False}, {"shutdown": True}, False),
    ):
        cluster = gateway.new_cluster(requirements="HasNoSuchThing", **keywords)
        cluster.scale(1)
        cluster.close(**close)
        cluster.close()  # a second time is nothing
        assert cluster.status == "closed"
        assert len(pool.jobs(cluster.name)) == stays
        if stays:
            assert (staging.staging_root() / cluster.name / "credentials" / "dask.pem").exists()
            assert cluster.name in names(gateway)
            gateway.stop_cluster(cluster.name)
        assert gone(gateway, cluster.name)


@pytest.mark.long
def test_shutdown_of_a_client_removes_the_jobs_also_where_another_made_the_cluster(new_cluster, gateway, pool):
    cluster = new_cluster()
    cluster.scale(1)
    with gateway.connect(cluster.name) as other:
        other.get_client().shutdown()
        assert other.status == "closed"
    wait_until(lambda: not pool.jobs(cluster.name), what="its job leaves the queue")
    wait_until(lambda: cluster.name not in {report.name for report in gateway.list_clusters()}, what="it is gone")


def test_what_a_closed_cluster_answers(gateway):
    cluster = gateway.new_cluster()
    cluster.shutdown()
    assert repr(cluster) == f"HTCGatewayCluster<{cluster.name}, status=closed>"
    for call in (lambda: cluster.scale(1), cluster.jobs):
        with pytest.raises(SchedulerError, match="closed"):
            call()


@pytest.mark.filterwarnings("ignore:HTCondor holds worker jobs")
def test_repr_counts_jobs_by_what_they_do(new_cluster, pool):
    cluster = new_cluster(requirements="HasNoSuchThing")
    cluster.scale(2)

    def shown() -> str:
        cluster.jobs()
        return repr(cluster)

    pool.run("condor_hold", cluster.jobs()[0].id)
    with dask.config.set({"htcdaskgateway.condor.poll-interval": "1ms"}):
        wait_until(lambda: "jobs: 0 running, 1 idle, 1 held" in shown(), what=shown)
        (held,) = [job for job in cluster.jobs() if job.hold_reason]
    assert held.hold_code == 1
    assert "condor_hold" in held.hold_reason


def test_letting_a_cluster_go_shuts_it_down(gateway, pool):
    cluster = gateway.new_cluster(requirements="HasNoSuchThing")
    cluster.scale(1)
    name = cluster.name
    del cluster
    gc.collect()
    # In a thread of its own if it met another collection.
    wait_until(lambda: not pool.jobs(name), what="the job is removed")
    wait_until(lambda: not (staging.staging_root() / name / "credentials").exists(), what="its key is removed")
    assert gone(gateway, name)


def test_the_worker_can_be_changed_on_connecting(gateway, standing):
    with gateway.connect(standing.name, memory="768MB") as cluster:
        assert cluster.spec.memory_mib == 768
        assert cluster.spec.cpus == standing.spec.cpus
    with pytest.raises(TypeError, match="A worker has no option 'colour'"):
        gateway.connect(standing.name, colour="red")


AT_EXIT = """
from htcdaskgateway import HTCGateway
cluster = HTCGateway().new_cluster()
cluster.scale(1)
cluster.wait_for_workers(1, 60)
print(cluster.name, len(cluster.jobs()))
"""


def test_a_program_that_ends_takes_its_cluster_with_it(gateway, pool):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", AT_EXIT], capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr
    name, jobs = done.stdout.split()
    assert jobs == "1"
    assert done.stderr == ""
    wait_until(lambda: not pool.jobs(name), what="the job is gone")
    assert gone(gateway, name)


def test_the_next_cluster_sweeps_up_after_a_client_that_died(gateway, new_cluster, stage, pool):
    """Its cluster is gone at the server and it has no job; another gateway's may well live on."""
    nowhere = WorkerSpec.from_keywords(requirements="HasNoSuchThing")
    for name, address in (
        ("died", gateway.proxy_address),
        ("queued", gateway.proxy_address),
        ("elsewhere", "gateway://other.example.org:1"),
    ):
        staging.Staging(name, nowhere).write(f"{address}/{name}", "CERTIFICATE", "KEY")
    try:
        pool.run("condor_submit", "worker.sub", "-queue", 1, cwd=stage / "queued")
        idle = new_cluster(shutdown_on_close=False)
        new_cluster()
    finally:
        pool.run("condor_rm", "-constraint", 'HTCDaskGatewayCluster == "queued"')
    assert {path.parent.name for path in Path(stage).glob("*/credentials")} >= {"elsewhere", "queued", idle.name}
    assert not (stage / "died" / "credentials").exists()
    assert (stage / "died" / "worker.sub").exists()


def test_a_name_that_is_none_is_refused_before_anything_is_asked(gateway, tool_calls):
    for call in (gateway.connect, gateway.stop_cluster, HTCGatewayCluster.from_name):
        with pytest.raises(ConfigError, match="cannot be the name"):
            call("../x")
    assert tool_calls.calls == []


def test_the_sweep_leaves_the_clusters_of_another_account_with_the_same_home(system, stage):
    with system.gateway(auth=BasicAuth("grace", system.password)) as other:
        theirs = other.new_cluster()
        try:
            credentials = stage / theirs.name / "credentials"
            assert credentials.is_dir()
            with system.gateway(auth=BasicAuth("ada", system.password)) as own, own.new_cluster():
                assert {path.name for path in credentials.iterdir()} == {"dask.crt", "dask.pem"}
            theirs.scale(1)
        finally:
            theirs.shutdown()
        assert not credentials.exists()
