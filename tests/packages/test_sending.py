"""What lies in the staging directory of the packages, and what is configured of the nodes' room for them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import dask.config
import pytest

from htcdaskgateway.errors import ConfigError
from htcdaskgateway.packages import nodes, sending
from htcdaskgateway.packages.packed import Packed

NAMES = ("base.tar.zst", "more.tar.zst", "boot.tar.gz", "local.tar.gz")


@pytest.fixture
def packed(tmp_path):
    """What stands for a packed environment: archives of a few bytes."""
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in NAMES:
        (kept / name).write_text(f"first {name}")
    return Packed(
        key="k", base="b", local="l", archives={name: str(kept / name) for name in NAMES},
        checksums=dict.fromkeys(NAMES, "sum"), glibc=17, machine="x86_64", version="3.12", size=1, certificates="",
    )  # fmt: skip


@pytest.fixture
def stage(tmp_path):
    directory = tmp_path / "stage"
    directory.mkdir(mode=0o700)
    return directory


def test_who_connects_to_a_cluster_later_sends_what_was_packed_for_it_and_packs_nothing(packed, stage):
    assert sending.staged(stage) is None
    sending.stage(packed, stage)
    found = sending.staged(stage)
    assert {name: Path(path).read_text() for name, path in found.archives.items()} == {
        name: f"first {name}" for name in NAMES
    }
    assert all(Path(path).is_relative_to(stage) for path in found.archives.values())
    assert (found.key, found.checksums) == (packed.key, packed.checksums)
    # It stages them again, where they are already.
    sending.stage(found, stage)
    assert sending.staged(stage) == found
    assert not [path for path in stage.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize(
    "spoilt", ["an archive has gone", "another version wrote it", "it is no JSON", "half of it"]
)
def test_what_is_staged_and_not_whole_is_packed_again(packed, stage, spoilt):
    sending.stage(packed, stage)
    note = stage / "packages/packed.json"
    told = json.loads(note.read_text())
    if spoilt == "an archive has gone":
        (stage / "packages/b/boot.tar.gz").unlink()
    elif spoilt == "another version wrote it":
        note.write_text(json.dumps({**told, "of_another": "version"}))
    elif spoilt == "it is no JSON":
        note.write_text("half of")
    else:
        del told["archives"]["more.tar.zst"]
        note.write_text(json.dumps(told))
    assert sending.staged(stage) is None


@pytest.mark.parametrize("elsewhere", [False, True], ids=["the same file system", "another file system"])
def test_a_job_that_reads_an_archive_reads_it_to_its_end_when_another_takes_its_place(tmp_path, packed, elsewhere):
    target = tmp_path / "archive"
    if elsewhere:
        target = Path("/dev/shm", f"htcdaskgateway-{os.getpid()}")
        if not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
            pytest.skip("there is one file system only")
    one, other, *_ = map(Path, packed.archives.values())
    try:
        sending.put(one, target)
        assert target.samefile(one) != elsewhere
        with target.open() as reading:
            sending.put(other, target)
            assert reading.read() == "first base.tar.zst"
        assert target.read_text() == "first more.tar.zst"
        assert one.read_text() == "first base.tar.zst"
    finally:
        target.unlink()


@pytest.mark.parametrize("size", ["much", "-1GB", 0, None])
def test_a_room_for_packages_on_the_nodes_that_is_no_size_is_refused_by_its_name(packed, size):
    with (
        dask.config.set({"htcdaskgateway.packages.node-size": size}),
        pytest.raises(ConfigError, match=r"htcdaskgateway\.packages\.node-size=.* is not a size such as 20GB"),
    ):
        sending.settings(packed)


@pytest.mark.parametrize("places", ["/scratch", ["scratch"], ["/a:b"], ["/a\nb"], [1]])
def test_a_place_for_packages_on_the_nodes_that_is_no_path_is_refused_by_its_name(places):
    with (
        dask.config.set({"htcdaskgateway.packages.node-directories": places}),
        pytest.raises(ConfigError, match=r"node-directories=.* is not a list of absolute paths"),
    ):
        nodes.directories()
