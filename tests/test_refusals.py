"""What a user is told whom the gateway server does not let in, or who cannot reach its proxy."""

from __future__ import annotations

import pickle
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from dask_gateway.auth import BasicAuth, JupyterHubAuth

from htcdaskgateway import HTCGateway
from htcdaskgateway.errors import GatewayAccessError, ProxyUnreachableError


@pytest.mark.parametrize(
    ("auth", "said"),
    [
        (BasicAuth("alice"), "none is set. Write DASK_GATEWAY_PASSWORD"),
        (BasicAuth("alice", "wrong"), "it does not take the password of 'alice'"),
        (JupyterHubAuth("token"), "access:services!service=dask-gateway"),
    ],
    ids=["no password", "a wrong one", "a hub's token"],
)
def test_who_is_not_let_in_is_told_why(system: Any, auth: Any, said: str, bare: Path) -> None:
    with HTCGateway(system.address, auth=auth) as gateway, pytest.raises(GatewayAccessError, match="401") as caught:
        gateway.list_clusters()
    assert said in str(caught.value)
    assert isinstance(caught.value, aiohttp.ClientResponseError), "what dask-gateway itself raises"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_another_users_cluster_is_refused_in_words(cluster: Any, gateway: Any) -> None:
    said = r"403 .*Is the cluster another user's\?"
    with (
        HTCGateway(gateway.address, auth=BasicAuth("somebody-else")) as other,
        pytest.raises(GatewayAccessError, match=said),
    ):
        other.get_cluster(cluster.name)


def test_a_proxy_that_cannot_be_reached_is_named_before_a_scheduler_is_started(
    gateway: Any, new_cluster: Callable[..., Any], stage: Path
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        begun = time.monotonic()
        with HTCGateway(gateway.address, proxy_address=f"127.0.0.1:{port}") as lost:
            with pytest.raises(ProxyUnreachableError, match=f"127.0.0.1:{port} cannot be reached from here"):
                lost.new_cluster()
            assert time.monotonic() - begun < 30
            assert lost.list_clusters() == []
