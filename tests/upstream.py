"""A pytest plugin for dask-gateway's own tests: this package's classes stand where they name the stock ones."""

from __future__ import annotations

import asyncio
import inspect
import sys
from typing import Any

import dask_gateway
import pytest

from htcdaskgateway import HTCGateway, HTCGatewayCluster

OURS = {dask_gateway.Gateway: HTCGateway, dask_gateway.GatewayCluster: HTCGatewayCluster}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Replace the names in the test modules, which are imported by now; dask-gateway itself stays as it is."""
    package = {item.module.__package__ for item in items if isinstance(item, pytest.Function)}
    for module in [module for name, module in sys.modules.items() if name.rpartition(".")[0] in package]:
        for name, value in list(vars(module).items()):
            if isinstance(value, type) and value in OURS:
                setattr(module, name, OURS[value])


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Any:
    """Run a test that is a coroutine function on a loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in wanted}))
    return True
