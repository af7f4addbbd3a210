"""When a worker's successor can take its results over, and what is said then."""

from __future__ import annotations

import asyncio
import types

from htcdaskgateway.fleet import code


def test_a_worker_is_retired_only_when_its_successor_is_given_results():
    # Which a scheduler does a moment after it has joined, too short to be met for real.
    successor = {"name": "htcondor-1.0-1-2@s", "code": "new", "status": "init"}
    answers = [{"a": successor}, {"a": {**successor, "status": "running"}}]

    async def packages():
        return answers.pop(0)

    fleet = types.SimpleNamespace(scheduler=types.SimpleNamespace(packages=packages))
    assert asyncio.run(code._successors(fleet, ["htcondor-1.0-1@s"], "new")) == ["htcondor-1.0-1@s"]
    assert answers == []


def test_what_was_synced_is_said_in_a_sentence_and_nothing_is_said_to_be_sent_to_nobody():
    assert str(code.Synced(2, 1082, False)) == "2 workers started anew, 1.1 kB sent to each."
    nobody = code.Synced(0, 1082, True)
    assert str(nobody).startswith("No worker that runs needs the local code anew. Installed packages have changed")
    assert "sent" not in str(nobody)
    assert repr(nobody) == str(nobody)


def test_packages_that_running_workers_lack_are_told_of_each_time_and_not_only_the_first(monkeypatch):
    packed = types.SimpleNamespace(key="new", local="code")
    workers = {"a": {"name": "htcondor-1.0-1@s", "code": "code", "key": "old", "status": "running"}}

    async def answer(*args, **kwargs):
        return b"" if args else workers

    async def pack(packages, *, image):
        return packed

    monkeypatch.setattr(code, "at_scheduler", answer)
    monkeypatch.setattr(code.packing, "pack_beside", pack)
    spec = types.SimpleNamespace(packages="notebook", packages_image=False)
    stage = types.SimpleNamespace(spec=spec, packed=packed, refresh=lambda: None)
    fleet = types.SimpleNamespace(staging=stage, scheduler=types.SimpleNamespace(packages=answer))
    assert asyncio.run(code.sync(fleet)).packages_changed
    workers["a"]["key"] = "new"
    assert not asyncio.run(code.sync(fleet)).packages_changed
