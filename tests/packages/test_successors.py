"""When a worker's successor can take its results over."""

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
