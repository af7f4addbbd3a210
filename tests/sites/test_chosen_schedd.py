"""A site with several schedds, of which each new cluster chooses one."""

from __future__ import annotations

from collections.abc import Iterator

import dask.config
import pytest
from support import schedd_beside, wait_until

from htcdaskgateway.local import PersonalPool
from htcdaskgateway.worker import staging

SECOND = "chosen@here"


@pytest.fixture(scope="module")
def second(system) -> Iterator[PersonalPool]:
    """Another schedd of the system's pool, of a kind of its own."""
    with schedd_beside(system.pool, SECOND, Kind='"LPC"', SCHEDD_ATTRS="$(SCHEDD_ATTRS) Kind") as pool:
        yield pool


def jobs_at(pool, schedd, cluster):
    return pool.ads("-name", schedd, "-constraint", f'HTCDaskGatewayCluster == "{cluster}" && JobStatus != 3')


@pytest.mark.long
def test_a_new_cluster_chooses_its_schedd_once_and_all_who_connect_use_it(second, pool, gateway, new_cluster):
    constraint = 'Kind =?= "LPC"'
    settings = {
        "htcdaskgateway.condor.schedd-constraint": constraint,
        "htcdaskgateway.condor.schedd-rank": "-(70.0 * RecentDaemonCoreDutyCycle + TotalIdleJobs)",
    }
    with dask.config.set(settings):
        cluster = new_cluster(worker_cores=1, requirements="HasNoSuchThing")
        cluster.scale(2)
        assert len(jobs_at(pool, SECOND, cluster.name)) == 2
        assert staging.noted_schedd(cluster.name) == SECOND
        # The choice is not made again, whatever others configure by now.
        for later in (settings, {"htcdaskgateway.condor.schedd-constraint": None}):
            with dask.config.set(later), gateway.connect(cluster.name) as other:
                assert len(other.jobs()) == 2
                other.scale(3)
                other.scale(2)
                assert len(jobs_at(pool, SECOND, cluster.name)) == 2
                assert not jobs_at(pool, "schedd@", cluster.name)
        gateway.stop_cluster(cluster.name)
        wait_until(lambda: not jobs_at(pool, SECOND, cluster.name), what="the jobs leave the queue")
