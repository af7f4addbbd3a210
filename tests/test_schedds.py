"""A site with several access points: a cluster's jobs stay with one schedd, whoever connects from wherever."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import Pool, schedd_beside, wait_until

from htcdaskgateway.condor.schedd import Condor
from htcdaskgateway.errors import CondorError
from htcdaskgateway.local import PersonalPool
from htcdaskgateway.worker import staging

SECOND = "second@here"
NOWHERE = "HasNoSuchThing"


@pytest.fixture(scope="module")
def second(system) -> Iterator[PersonalPool]:
    """Another access point of the system's pool: a schedd of its own, and the same collector."""
    with schedd_beside(system.pool, SECOND) as pool:
        yield pool


@pytest.fixture
def from_second(second, pool, monkeypatch):
    """Be on the other access point from now on."""

    def go() -> Pool:
        for name, value in second.environ.items():
            monkeypatch.setenv(name, value)
        return Pool(second.installation.bin)

    return go


def jobs_at(pool, schedd, cluster):
    constraint = f'HTCDaskGatewayCluster == "{cluster}" && JobStatus != 3'
    return pool.ads("-name", schedd, "-constraint", constraint)


def test_jobs_are_counted_scaled_and_removed_where_they_are(new_cluster, gateway, from_second):
    cluster = new_cluster(requirements=NOWHERE)
    cluster.scale(2)
    pool = from_second()
    assert staging.noted_schedd(cluster.name) == "schedd@"
    with gateway.connect(cluster.name) as other:
        assert len(other.jobs()) == 2
        other.scale(3)
        assert len(jobs_at(pool, "schedd@", cluster.name)) == 3
        assert not jobs_at(pool, SECOND, cluster.name)
    with gateway.connect(cluster.name) as other:
        other.shutdown()
    wait_until(lambda: not jobs_at(pool, "schedd@", cluster.name), what="the jobs leave the queue")


@pytest.mark.long
def test_a_cluster_is_stopped_by_its_name_from_another_access_point(new_cluster, gateway, from_second):
    cluster = new_cluster(requirements=NOWHERE)
    cluster.scale(2)
    pool = from_second()
    gateway.stop_cluster(cluster.name)
    wait_until(lambda: not jobs_at(pool, "schedd@", cluster.name), what="the jobs leave the queue")


@pytest.mark.long
def test_the_sweep_leaves_alone_whose_jobs_another_schedd_holds(gateway, new_cluster, from_second, pool, stage):
    spec = new_cluster(requirements=NOWHERE).spec
    for name in ("queued", "died"):
        old = staging.Staging(name, spec)
        old.write(f"{gateway.proxy_address}/{name}", "CERTIFICATE", "KEY")
        staging.note_schedd(name, "schedd@" if name == "queued" else SECOND)
    from_second()
    new_cluster(requirements=NOWHERE)
    assert (stage / "queued" / "credentials").exists()
    assert not (stage / "died" / "credentials").exists()


def test_of_two_that_begin_to_submit_at_once_the_second_takes_its_jobs_back(new_cluster, second, pool, monkeypatch):
    cluster = new_cluster(requirements=NOWHERE)
    submit = Condor.submit

    async def while_another_does(condor, *args, **keywords):
        submitted = await submit(condor, *args, **keywords)
        await cluster.fleet.scheduler.note(schedd=SECOND)
        return submitted

    with monkeypatch.context() as patch:
        patch.setattr(Condor, "submit", while_another_does)
        with pytest.raises(CondorError, match=f"another client has begun to submit at {SECOND}; scale again"):
            cluster.scale(1)
    assert not jobs_at(pool, "schedd@", cluster.name)
    cluster.scale(1)
    assert len(jobs_at(pool, SECOND, cluster.name)) == 1


def test_a_schedd_that_cannot_be_reached_from_here_is_named(new_cluster, gateway, from_second):
    cluster = new_cluster(requirements=NOWHERE)
    cluster.scale(1)
    cluster.gateway.sync(cluster.fleet.scheduler.note, schedd="elsewhere@example.org")
    from_second()
    with gateway.connect(cluster.name) as other, pytest.raises(CondorError, match="queue of the schedd elsewhere@"):
        other.jobs()
    cluster.gateway.sync(cluster.fleet.scheduler.note, schedd="schedd@")
