"""When a worker's successor can take its results over, and what is said then."""

from __future__ import annotations

import asyncio
import types
import warnings

import pytest

from htcdaskgateway.errors import ConfigError, PackagesError
from htcdaskgateway.fleet import code, stale


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


def test_a_worker_that_did_not_start_anew_is_named_and_so_is_one_that_could_not_give_its_results_away(
    monkeypatch, caplog
):
    # Neither is to be had from a real worker on demand: one that cannot write its disk, and one whose data is kept.
    packed = types.SimpleNamespace(key="key", local="new")
    worker = {"code": "old", "key": "key", "status": "running"}
    told = [
        {"a": {**worker, "name": "htcondor-1.0-1@s"}, "b": {**worker, "name": "htcondor-2.0-1@s"}},
        {"c": {**worker, "name": "htcondor-1.0-1-2@s", "code": "new"}},
    ]

    async def packages():
        return told.pop(0) if len(told) > 1 else told[0]

    async def send_code(addresses, code, key):
        return {"a": key, "b": OSError("no room on the disk")}

    async def retire(names, timeout):
        assert names == ["htcondor-1.0-1@s"]
        return names

    async def pack(packages, *, image):
        return packed

    async def at_scheduler(scheduler, packed):
        return b"code"

    monkeypatch.setattr(code, "at_scheduler", at_scheduler)
    monkeypatch.setattr(code.packing, "pack_beside", pack)
    spec = types.SimpleNamespace(packages="notebook", packages_image=False)
    stage = types.SimpleNamespace(spec=spec, packed=packed, refresh=lambda: None)
    scheduler = types.SimpleNamespace(packages=packages, send_code=send_code, retire=retire)
    with pytest.raises(
        PackagesError, match=r"1 of 2 workers did not start anew .*: htcondor-2\.0-1@s\. cluster\.logs"
    ):
        asyncio.run(code.sync(types.SimpleNamespace(staging=stage, scheduler=scheduler)))
    assert "htcondor-2.0-1@s has not taken the new code: OSError('no room on the disk')" in caplog.text
    kept = str(code.Synced(1, 4, False, ("htcondor-1.0-1@s",)))
    assert kept.endswith("These still hold results that could not be moved: htcondor-1.0-1@s.")


def test_workers_without_the_notebooks_packages_have_no_code_to_sync(cluster):
    with pytest.raises(ConfigError, match='was not made with packages="notebook"'):
        cluster.sync_packages()


def test_a_task_that_fails_where_the_environment_has_gone_gets_no_hint_and_no_error(tmp_path, caplog):
    spec = types.SimpleNamespace(packages=str(tmp_path / "gone"), packages_image=False)
    stage = types.SimpleNamespace(spec=spec, packed=object())
    caplog.set_level("INFO")
    with warnings.catch_warnings():
        warnings.simplefilter("error", stale.StaleCodeWarning)
        asyncio.run(stale._hint(ImportError("no module"), stage))
    assert (
        f"cannot tell whether the code has changed since the workers got it: packages='{tmp_path}/gone'"
        in caplog.text
    )
