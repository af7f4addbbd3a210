"""What is said of an image before anything is submitted, and the comparison of versions."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import dask.config
import pytest
from support import Tools

from htcdaskgateway.condor import Condor
from htcdaskgateway.errors import ConfigError, ContainerError
from htcdaskgateway.scheduler.versions import Versions
from htcdaskgateway.worker import containers, staging
from htcdaskgateway.worker.spec import WorkerSpec

PREFIXES = "htcdaskgateway.container-unseen-prefixes"


def spec(image: str | None, runtime: str = "htcondor", **keywords: Any) -> WorkerSpec:
    return WorkerSpec.from_keywords(container_image=image, container_runtime=runtime, **keywords)


@pytest.mark.parametrize(
    "image",
    [
        "docker://python:3.12",
        "oras://registry/image:tag",
        "docker-archive:/no/such.tar",
        "/cvmfs/singularity.opensciencegrid.org/no/image:latest/",
        "/no-such-directory-at-the-top/image.sif",
        None,
    ],
)
def test_what_this_machine_cannot_see_passes(bare: Path, image: str | None) -> None:
    containers.check_image(spec(image))


def test_an_address_and_a_directory_of_cvmfs_are_passed_on_as_they_are(bare: Path) -> None:
    for image in ("docker://python:3.12", "/cvmfs/a.org/image:latest/"):
        script = staging.Staging("c", spec(image, "apptainer")).rendered("gateway://h:1/c")["worker.sh"]
        assert f"\n    {image} \\\n" in script
        description = staging.Staging("c", spec(image)).rendered("gateway://h:1/c")["worker.sub"]
        assert f"\ncontainer_image = {image.rstrip('/')}\n" in description


def test_a_missing_image_names_what_is_there(bare: Path, tmp_path: Path) -> None:
    image = tmp_path / "images" / "a.sif"
    with pytest.raises(ContainerError, match=rf"'{image}' does not exist; {tmp_path} does"):
        containers.check_image(spec(str(image)))
    with dask.config.set({PREFIXES: [str(tmp_path)]}):
        containers.check_image(spec(str(image)))
    with dask.config.set({PREFIXES: [str(tmp_path / "image")]}), pytest.raises(ContainerError):
        containers.check_image(spec(str(image)))  # a prefix is of directories, not of letters
    with dask.config.set({PREFIXES: str(tmp_path)}), pytest.raises(ConfigError, match="not a list"):
        containers.check_image(spec(str(image)))
    image.parent.mkdir()
    image.touch()
    with pytest.raises(ContainerError, match="is an empty file"):
        containers.check_image(spec(str(image)))
    image.write_text("x")
    containers.check_image(spec(str(image)))


def test_a_relative_image_is_this_machines(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert spec("a.sif").container_image == str(tmp_path / "a.sif")
    assert spec("~/a.sif").container_image == str(bare / "a.sif")


def test_a_file_is_sent_and_a_directory_is_not(bare: Path, tmp_path: Path) -> None:
    other = tmp_path / "image.img"
    other.touch()
    for image, sent in (("/x/a.sif", True), (str(other), True), (str(tmp_path), False), ("/x/directory", False)):
        assert containers.is_sent(spec(image)) is sent
        for told in (True, False):
            assert containers.is_sent(spec(image, transfer_container=told)) is told


def slots(image: str, runtime: str = "htcondor") -> None:
    asyncio.run(containers.check_slots(Condor(timeout=2), spec(image, runtime)))


@pytest.mark.parametrize(
    ("image", "attribute"),
    [
        ("/x/a.sif", "HasSIF"),
        ("/x/a", "HasSandboxImage"),
        ("docker://a", "HasDockerURL"),
        ("oras://a", "HasSandboxImage"),
    ],
)
def test_an_image_is_refused_where_no_slot_has_containers(
    bare: Path, fake_tools: Tools, image: str, attribute: str
) -> None:
    fake_tools.script("condor_status", 'case "$*" in *Has*) ;; *) echo slot1@a ;; esac')
    with pytest.raises(ContainerError, match=rf"No slot of the pool .*'{image}'.* HasContainer and {attribute}"):
        slots(image)
    slots(image, "apptainer")  # which needs nothing of HTCondor
    with dask.config.set({"htcdaskgateway.check-slots": False}):
        slots(image)


def test_one_question_is_enough_where_there_are_containers(bare: Path, fake_tools: Tools) -> None:
    fake_tools.answer("condor_status", "slot1@a\n")
    slots("/x/a.sif")
    assert len(fake_tools.calls) == 1


def test_a_pool_that_shows_no_slot_or_does_not_answer_passes(
    bare: Path, fake_tools: Tools, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> list[str]:  # but what another test has left, which is collected now
        ours = [record for record in caplog.records if record.name.startswith("htcdaskgateway")]
        return [record.message.partition(":")[0] for record in ours]

    fake_tools.answer("condor_status")
    slots("/x/a.sif")
    assert told() == []
    fake_tools.answer("condor_status", stderr="Failed to connect", code=1)
    slots("/x/a.sif")
    fake_tools.script("condor_status", "sleep 60")
    began = time.monotonic()
    slots("/x/a.sif")
    assert time.monotonic() - began < 10
    (fake_tools.directory / "condor_status").unlink()
    slots("/x/a.sif")
    assert told() == ["Cannot tell whether the pool's slots run containers"] * 3


SIDE = {
    "python": "3.11.7.final.0",
    "dask": "2026.8.0",
    "distributed": "2026.8.0",
    "msgpack": "1.2.4",
    "pandas": None,
}


def test_versions_that_agree_are_said_to() -> None:
    found = Versions(SIDE, {**SIDE, "python": "3.11.9.final.0"}, {"a": SIDE, "b": {**SIDE, "pandas": "3.0"}})
    assert found.ok
    assert "All agree." in str(found)
    assert "3.11.7 " in str(found)
    assert "unpickle" not in str(found)
    assert repr(found) == str(found)


def test_versions_that_differ_say_where() -> None:
    old = {**SIDE, "dask": "2025.2.0"}
    workers = {f"htcondor-1.{n}-1": old if n < 5 else SIDE for n in range(8)}
    found = Versions(SIDE, {**SIDE, "msgpack": "1.1.0"}, workers, "/x/a.sif")
    assert found.mismatches == ["dask", "msgpack"]
    text = str(found)
    assert "2025.2.0: htcondor-1.0-1, htcondor-1.1-1, htcondor-1.2-1 and 2 more; 2026.8.0: htcondor-1.5-1" in text
    assert "The workers' image: /x/a.sif" in text
    assert len(text.splitlines()) < 24  # one screen


def test_a_package_that_not_all_need_differs_only_where_it_is() -> None:
    assert Versions({**SIDE, "pandas": "2.0"}, SIDE, {"a": SIDE}).ok
    assert Versions({**SIDE, "pandas": "2.0"}, SIDE, {"a": {**SIDE, "pandas": "3.0"}}).mismatches == ["pandas"]
    assert Versions(SIDE, SIDE, {"a": {**SIDE, "msgpack": None}}).mismatches == ["msgpack"]


def test_another_python_is_said_to_break_pickles() -> None:
    other = {**SIDE, "python": "3.12.1.final.0"}
    text = str(Versions(SIDE, other, {"a": other, "b": other}))
    assert "The client's Python 3.11.7 has another minor version than the scheduler and all workers" in text
    assert "will not unpickle" in text
    assert "than b: " in str(Versions(SIDE, SIDE, {"a": SIDE, "b": other}))
