"""What of the pool's machines is known before anything is submitted."""

from __future__ import annotations

import asyncio
import platform
import re
from pathlib import Path

import dask.config
import pytest
from support import wait_until

from htcdaskgateway.condor.machines import systems
from htcdaskgateway.condor.schedd import Condor
from htcdaskgateway.errors import CondorError, ConfigError, PackagesError
from htcdaskgateway.packages import nodes, packing, sending
from htcdaskgateway.packages.packed import Packed


def needs(glibc=17, machine=None):
    return Packed(
        key="k", base="k", local="l", archives={}, checksums={}, glibc=glibc, machine=machine or platform.machine(),
        version="3.12", size=1, certificates="",
    )  # fmt: skip


@pytest.fixture
def scratch():
    with dask.config.set({"htcdaskgateway.packages.node-directories": ["/scratch"]}):
        yield


def matching(packed):
    """Return the slots that fit the requirement of the job."""
    of_slot = nodes.requirements(packed).replace("TARGET.", "")
    asked = Condor().checked("condor_status", "-const", of_slot, "-af", "Name", failing="no answer")
    return asyncio.run(asked).stdout.split()


def test_a_pool_with_an_older_glibc_is_told_before_anything_is_submitted_and_both_numbers_with_the_way_out(pool):
    ((_, system), *_) = asyncio.run(systems(Condor()))
    if system not in nodes.GLIBC_OF:
        pytest.skip(f"which glibc {system} has is not known to the package")
    with pytest.raises(PackagesError) as caught:
        asyncio.run(nodes.check(Condor(), needs(glibc=99)))
    said = str(caught.value)
    assert "glibc 2.99" in said
    assert f"2.{nodes.GLIBC_OF[system]} ({system})" in said
    assert "uv venv --managed-python" in said
    assert "container_image" in said
    assert matching(needs(glibc=99)) == []


def test_a_pool_of_another_architecture_is_told_before_anything_is_submitted(pool):
    with pytest.raises(PackagesError, match=r"architecture of the packages, riscv64; the machines have"):
        asyncio.run(nodes.check(Condor(), needs(machine="riscv64")))
    assert matching(needs(machine="riscv64")) == []


def test_what_the_pool_can_run_passes_and_so_do_systems_that_are_not_known(pool, monkeypatch):
    asyncio.run(nodes.check(Condor(), needs()))
    assert matching(needs())
    monkeypatch.setattr(nodes, "GLIBC_OF", {})
    asyncio.run(nodes.check(Condor(), needs(glibc=99)))
    assert matching(needs(glibc=99))


def test_no_scheduler_is_started_for_packages_that_no_machine_can_run(gateway, monkeypatch):
    monkeypatch.setattr(packing, "pack", lambda packages, image: needs(glibc=99))
    monkeypatch.setattr(nodes, "GLIBC_OF", {system: 1 for _, system in asyncio.run(systems(Condor()))})
    with pytest.raises(PackagesError, match="the packages need glibc"):
        gateway.new_cluster(packages="notebook")
    assert gateway.list_clusters() == []


def test_a_pool_that_does_not_answer_is_no_reason_not_to_begin(pool, caplog):
    class Silent(Condor):
        async def checked(self, *args, **kwargs):
            raise CondorError("the collector does not answer")

    asyncio.run(nodes.check(Silent(), needs(glibc=99)))
    assert "the collector does not answer" in caplog.text


@pytest.mark.long
def test_a_node_is_believed_to_have_only_what_it_keeps_where_jobs_look(packed):
    with dask.config.set({"htcdaskgateway.packages.node-directories": ["/data"]}):
        assert nodes.note(packed, {"node.example.org"})
        assert nodes.known(packed) == ["node.example.org"]
    for elsewhere in ([], ["/other"]):
        with dask.config.set({"htcdaskgateway.packages.node-directories": elsewhere}):
            assert sending.request(packed, plainly=False).machines == []


@pytest.mark.long
@pytest.mark.usefixtures("scratch")
def test_files_are_chosen_at_the_start_only_where_the_schedd_can_do_so(packed):
    assert nodes.note(packed, {"node.example.org"})
    assert not nodes.note(packed, {"node.example.org"})
    chosen = sending.request(packed, plainly=False)
    assert (chosen.machines, chosen.common) == (["node.example.org"], [])
    assert sum("$$([" in name for name in chosen.files) == len(packed.if_missing) == 3
    # With spooled files, or jobs that the schedd makes later, it cannot.
    plain = sending.request(packed, plainly=True)
    assert (plain.machines, plain.common) == ([], [])
    assert {*packed.archives} <= {Path(name).name for name in plain.files}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:HTCondor holds worker jobs")
@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        (
            ("packages.conf", "GLIBC=", "GLIBC=9"),
            r"its node is not one that the packages are for: they need .* glibc 2\.\d+",
        ),
        (
            ("packages.conf", "BOOT_SUM=", "BOOT_SUM=0"),
            "the packages could not be unpacked on the node: its disk is full, or",
        ),
    ],
    ids=["a node that is too old", "an archive that was altered"],
)
def test_a_job_that_cannot_use_its_packages_is_held_with_the_reason(new_cluster, packed, spoilt, reason, small):
    cluster = new_cluster(packages=str(small.path), cpus=1, memory="256MB")
    name, old, new = spoilt
    path = cluster.fleet.staging.directory / "packages" / packed.base / name
    path.write_text(path.read_text().replace(old, new))
    cluster.scale(1)
    (job,) = wait_until(lambda: [job for job in cluster.jobs() if job.hold_reason], what="the job is held")
    assert re.search(reason, job.hold_reason)


@pytest.mark.long
def test_packages_are_sent_once_to_a_node_only_where_that_is_asked_for_and_else_plainly(packed, monkeypatch):
    monkeypatch.setattr(nodes, "known", lambda packed: [])
    plain = sending.request(packed, plainly=False)
    assert plain.common == []
    assert not [name for name in plain.files if "$$([" in name]
    with dask.config.set({"htcdaskgateway.packages.common-transfer": True}):
        asked = sending.request(packed, plainly=False)
        assert sending.request(packed, plainly=True).common == []
    assert {Path(name).name for name in asked.common} == set(packed.if_missing)
    # Listed with each job, too, unless the schedd itself says that it sends them.
    assert sum("isUndefined(MY.RequestedCatalogs)" in name for name in asked.files) == len(asked.common)
    with (
        dask.config.set({"htcdaskgateway.packages.common-transfer": "perhaps"}),
        pytest.raises(ConfigError, match="neither true nor false"),
    ):
        sending.request(packed, plainly=False)
