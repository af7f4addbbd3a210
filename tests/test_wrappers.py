"""A site whose scripts around HTCondor's tools stand before several schedds, as at Fermilab."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import Pool, Tools, schedd_beside, wait_until, workers_of

from htcdaskgateway.condor.jobs import JobId
from htcdaskgateway.errors import ConfigError
from htcdaskgateway.local import PersonalPool

SECOND = "second@here"
SCHEDDS = ("schedd@", SECOND)


@pytest.fixture(scope="module")
def second(system) -> Iterator[PersonalPool]:
    """Another schedd of the system's pool."""
    with schedd_beside(system.pool, SECOND) as pool:
        yield pool


@pytest.fixture
def wrapped(system, second, pool, tmp_path, monkeypatch) -> Tools:
    """The tools as a site has them: a submit goes to the schedds in turn, a removal wants to be told which."""
    real, turn = system.pool.installation.bin, tmp_path / "turn"
    tools = Tools(tmp_path / "wrapped", real)
    named = 'case " $* " in *" -name "*) exec {tool} "$@";; esac\n'
    for tool in ("condor_q", "condor_history", "condor_transfer_data"):
        # Neither a comma nor a line of its own between the arrays, and nothing at all where there is no job.
        body = "".join(f'{real / tool} -name {schedd} "$@" || exit\n' for schedd in SCHEDDS)
        tools.script(tool, named.format(tool=real / tool) + body)
    tools.script(
        "condor_submit",
        f'echo "Attempting to submit jobs to one of the schedds" >&2\nif [ -e {turn} ]; then rm {turn}; '
        f'to={SECOND}; else touch {turn}; to=schedd@; fi\nexec {real / "condor_submit"} -name $to "$@"',
    )
    tools.script(
        "condor_rm",
        named.format(tool=real / "condor_rm") + 'echo "You must specify a schedd with -name" >&2; exit 1',
    )
    monkeypatch.setenv("CONDOR_BIN_DIR", str(tools.directory))
    return tools


def queued(pool: Pool, cluster: str) -> list[tuple[str, str]]:
    """The jobs in both queues: the schedd and the id of each."""
    constraint = f'HTCDaskGatewayCluster == "{cluster}" && JobStatus != 3 && JobStatus != 4'
    return sorted(
        (schedd, f"{ad['ClusterId']}.{ad['ProcId']}")
        for schedd in SCHEDDS
        for ad in pool.ads("-name", schedd, "-constraint", constraint)
    )


@pytest.mark.long
def test_all_jobs_are_counted_told_apart_and_removed_whichever_schedd_a_wrapper_gave_them_to(
    wrapped, pool, gateway, new_cluster
):
    # The next ids of both schedds are made equal, so that two jobs are told apart by their schedds alone.
    description = "executable = /bin/true\nhold = true\n"
    following = dict.fromkeys(SCHEDDS, 0)
    while len({*following.values()}) > 1 or not all(following.values()):
        schedd = min(following, key=following.__getitem__)
        said = pool.run("condor_submit", "-name", schedd, "-terse", input=description + "queue 1\n")
        following[schedd] = int(said.partition(".")[0])
        pool.run("condor_rm", "-name", schedd, str(following[schedd]))
    cluster = new_cluster(cpus=1, memory="512MB")
    cluster.scale(2)
    cluster.scale(4)
    there = queued(pool, cluster.name)
    assert [schedd for schedd, _ in there] == ["schedd@", "schedd@", SECOND, SECOND]
    assert {job for schedd, job in there if schedd == SECOND} == {job for schedd, job in there if schedd != SECOND}
    cluster.wait_for_workers(4, timeout="60s")
    jobs = cluster.jobs()
    assert len(jobs) == len({job.id for job in jobs}) == len({job.worker_name for job in jobs}) == 4
    assert f"@{SECOND}" in str(jobs)
    names = {info["name"] for info in workers_of(cluster.get_client()).values()}
    assert names == {job.worker_name for job in jobs}
    assert {JobId.of_worker(name) for name in names} == {job.id for job in jobs}
    # The event log does not name the schedd, which docs/sites.md says.
    assert str(cluster.timeline()).startswith(f"Cluster {cluster.name}: 2 jobs in ")
    cluster.scale(4)
    assert queued(pool, cluster.name) == there
    with gateway.connect(cluster.name) as other:
        assert len(other.jobs().live) == 4
        other.scale(1)
        assert len(queued(pool, cluster.name)) == 1
        other.scale(3)
        assert len(queued(pool, cluster.name)) == len(other.jobs().live) == 3
    cluster.shutdown()
    wait_until(lambda: not queued(pool, cluster.name), what="the jobs leave both queues")


@pytest.mark.long
def test_a_cluster_is_stopped_by_its_name_at_all_schedds_of_a_wrapper(wrapped, pool, gateway, new_cluster):
    cluster = new_cluster(requirements="HasNoSuchThing")
    cluster.scale(1)
    cluster.scale(2)
    assert len({schedd for schedd, _ in queued(pool, cluster.name)}) == 2
    gateway.stop_cluster(cluster.name)
    wait_until(lambda: not queued(pool, cluster.name), what="the jobs leave both queues")


@pytest.mark.long
def test_jobs_that_a_schedd_would_make_later_are_refused_where_several_answer(wrapped, pool, new_cluster):
    cluster = new_cluster(requirements="HasNoSuchThing", max_idle=2)
    with pytest.raises(
        ConfigError, match=r"max_idle=2 needs one schedd, and here 2 answer \(schedd@, second@here\)"
    ):
        cluster.scale(4)
    assert not queued(pool, cluster.name)
