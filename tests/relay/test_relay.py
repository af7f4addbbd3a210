"""Workers that only dial out: nobody connects to their ports."""

from __future__ import annotations

import os
import signal
import time
import warnings
from typing import Any

import psutil
import pytest
from dask.distributed import Client
from dask_gateway import GatewayWarning
from distributed.comm.registry import backends
from support import PATIENCE, children_with, reconnected, wait_until, workers_of

from htcdaskgateway import WorkerSpec
from htcdaskgateway.condor.jobs import JobId
from htcdaskgateway.errors import ConfigError, SchedulerError
from htcdaskgateway.scheduler.relay import Source
from htcdaskgateway.worker.staging import Staging


@pytest.fixture
def relayed(new_cluster: Any) -> Any:
    cluster = new_cluster(cpus=1, memory="1GB", relay="always")
    cluster.scale(2)
    with Client(cluster) as client:
        client.wait_for_workers(2, timeout=PATIENCE)
        yield client


def addresses(client: Client) -> list[str]:
    return list(workers_of(client))


def stop_listening(client: Client) -> None:
    """Close the workers' ports for new connections, as a firewall does."""

    def stop(dask_worker: Any) -> None:
        dask_worker.listener.tcp_server.stop()

    client.run(stop)


def passed(client: Client, size: int = 20_000_000) -> int:
    """Have one worker make bytes and the other take them."""
    one, other = addresses(client)
    made = client.submit(lambda: os.urandom(size), workers=[one], pure=False)
    return client.submit(len, made, workers=[other], pure=False).result(PATIENCE)  # type: ignore[no-any-return]


@pytest.mark.core
def test_workers_that_nobody_can_connect_to_exchange_results(relayed: Client) -> None:
    stop_listening(relayed)
    assert all(address.startswith("relay://") for address in addresses(relayed))
    assert passed(relayed) == 20_000_000
    assert relayed.cluster.connections() == (0, 1)
    assert relayed.run(lambda: 1) == dict.fromkeys(addresses(relayed), 1)
    assert relayed.gather(relayed.scatter([1, 2], broadcast=True)) == [1, 2]


@pytest.mark.long
def test_work_goes_on_when_the_child_that_moves_the_bytes_is_killed(relayed: Client) -> None:
    stop_listening(relayed)
    assert passed(relayed) == 20_000_000
    child = relayed.sync(relayed.scheduler.htcdaskgateway_relay_child)
    os.kill(child, signal.SIGKILL)
    assert passed(relayed) == 20_000_000
    assert wait_until(lambda: relayed.sync(relayed.scheduler.htcdaskgateway_relay_child)) != child


def dial(client: Client, token: str, workers: list[str]) -> set[str]:
    """Have workers dial the scheduler with a token; return what becomes of the connections."""

    async def accept(dask_worker: Any) -> str:
        from distributed.comm import connect

        link = await connect(dask_worker.scheduler.address, **dask_worker.connection_args)
        await link.write({"op": "htcdaskgateway_relay_accept", "token": token, "reply": False})
        try:
            await link.read()
        except OSError:
            return "closed"
        return "open"

    return set(client.run(accept, workers=workers).values())


@pytest.mark.long
def test_a_token_that_was_not_given_out_opens_nothing(relayed: Client) -> None:
    assert dial(relayed, "0" * 32, addresses(relayed)) == {"closed"}


@pytest.mark.long
def test_a_token_opens_one_connection_and_no_second(relayed: Client) -> None:
    def note_tokens(dask_worker: Any) -> None:
        dial = dask_worker.stream_handlers["htcdaskgateway_relay_dial"]
        dask_worker.tokens = []

        def noting(token: str, **how: Any) -> None:
            dask_worker.tokens.append(token)
            dial(token=token, **how)

        dask_worker.stream_handlers["htcdaskgateway_relay_dial"] = noting

    relayed.run(note_tokens)
    assert passed(relayed) == 20_000_000
    tokens = {where: found for where, found in relayed.run(lambda dask_worker: dask_worker.tokens).items() if found}
    assert tokens
    for where, found in tokens.items():
        assert dial(relayed, found[-1], [where]) == {"closed"}


@pytest.mark.long
def test_connections_for_the_relay_go_on_with_the_session_of_an_earlier_one_and_shake_hands_anew_without(
    relayed: Client,
) -> None:
    assert passed(relayed) == 20_000_000

    async def connect(forget: bool, dask_worker: Any) -> bool:
        from distributed.comm import connect
        from distributed.comm.registry import backends

        links = backends["relay"].get_connector().links
        if forget:  # one that the scheduler has not given: of this worker's own listener
            port = dask_worker.listener.bound_address[1]
            other = await connect(f"tls://127.0.0.1:{port}", ssl_context=links.context)
            links.context.earlier = other.stream.socket.session
            other.abort()
        link = await links.connect()
        reused = link.stream.socket.session_reused
        # As a pulse does, which keeps the new one.
        await link.write({"op": "htcdaskgateway_relay_pulse", "worker": "nobody", "reply": False})
        await link.read()
        (await links.plain(link)).close()
        return bool(reused)

    assert set(relayed.run(connect, False).values()) == {True}
    assert set(relayed.run(connect, True).values()) == {False}
    assert set(relayed.run(connect, False).values()) == {True}
    assert passed(relayed) == 20_000_000


def pulses(client: Client) -> dict[str, int]:
    """The processes that answer for the workers' links."""

    def one_each() -> dict[str, int] | None:
        found = client.run(children_with("-S"))
        return {at: pids[0] for at, pids in found.items()} if all(len(p) == 1 for p in found.values()) else None

    return wait_until(one_each, what="each worker has a pulse")  # type: ignore[return-value]


@pytest.mark.long
def test_a_worker_whose_python_is_busy_for_long_is_kept(relayed: Client) -> None:
    before = addresses(relayed)
    pulses(relayed)

    def hold_everything_up() -> None:
        import ctypes

        ctypes.PyDLL(None).sleep(35)  # and keeps the interpreter's lock

    assert relayed.submit(hold_everything_up, workers=before[:1]).result(PATIENCE) is None
    assert addresses(relayed) == before
    assert passed(relayed) == 20_000_000


@pytest.mark.long
def test_a_worker_whose_pulse_is_killed_is_kept_and_gets_another(relayed: Client) -> None:
    before, first = addresses(relayed), pulses(relayed)

    def end(pids: dict[str, int], dask_worker: Any) -> None:
        os.kill(pids[dask_worker.address], signal.SIGKILL)

    relayed.run(end, first)
    wait_until(lambda: not set(pulses(relayed).values()) & set(first.values()), what="each has another")
    assert addresses(relayed) == before


@pytest.mark.core
def test_who_connects_to_workers_itself_reaches_those_with_an_address_of_the_relay(relayed: Client) -> None:
    assert relayed.gather(relayed.scatter([1, 2], direct=True), direct=True) == [1, 2]


@pytest.mark.long
def test_a_dial_in_vain_and_a_worker_that_is_not_there_cost_a_message_each(relayed: Client) -> None:
    async def in_vain(dask_worker: Any) -> str:
        from distributed.comm.registry import backends

        dask_worker.stream_handlers["htcdaskgateway_relay_dial"](token="0" * 32, sender="relay://a:1/b", raw=True)
        try:
            await backends["relay"].connector.connect("127.0.0.1:1/Worker-of-nobody")
        except OSError as error:
            return str(error)
        return "connected"

    told = set(relayed.run(in_vain).values())
    assert told == {"no worker relay://127.0.0.1:1/Worker-of-nobody"}
    wait_until(
        lambda: all("in vain" in str(logs) for logs in relayed.get_worker_logs().values()), what="both say so"
    )
    assert passed(relayed) == 20_000_000


def test_who_counts_pairs_where_there_is_no_relay_is_told_so(new_cluster: Any) -> None:
    with pytest.raises(ConfigError, match="relay='never'"):
        new_cluster(relay="never").connections()


@pytest.mark.long
def test_a_scheduler_that_cannot_run_the_relay_has_workers_without_one_or_says_why(
    new_cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Source, "__reduce__", lambda self: (eval, ("1/0",)))
    with pytest.raises(SchedulerError, match="relay between workers: ZeroDivisionError"):
        new_cluster(relay="always")
    with pytest.warns(GatewayWarning, match="reach one another at 10000:10070: .*ZeroDivisionError"):
        cluster = new_cluster(relay="auto")
    cluster.scale(2)
    with Client(cluster) as client:
        client.wait_for_workers(2, timeout=PATIENCE)
        assert all(address.startswith("tls://") for address in addresses(client))
        assert passed(client) == 20_000_000


@pytest.mark.usefixtures("bare")
def test_a_relay_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="relay='sometimes' is none of 'never', 'auto', 'always'"):
        WorkerSpec.from_keywords(relay="sometimes")
    with pytest.raises(ConfigError, match="nanny"):
        WorkerSpec.from_keywords(relay="always", nanny=True)
    assert WorkerSpec.from_keywords().relay == "auto"


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(("words", "there"), [({}, True), ({"nanny": True}, False), ({"relay": "never"}, False)])
def test_workers_with_a_nanny_do_without_the_relay_and_their_cluster_may_have_others(
    words: dict[str, Any], there: bool
) -> None:
    spec = WorkerSpec.from_keywords(**words)
    text = Staging("c1", spec).rendered("gateway://h:1/c1")["worker_preload.py"]
    assert (text.count("\nRELAY = ") == 2) is there
    if "nanny" in words:
        assert WorkerSpec.from_dict({**spec.to_dict(), "nanny": False}).relay == "auto"


@pytest.mark.long
def test_who_does_without_the_relay_reaches_the_workers_of_who_does_not(
    new_cluster: Any, system: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = new_cluster(cpus=1, memory="1GB")
    cluster.scale(1)
    cluster.wait_for_workers(1, timeout=PATIENCE)
    monkeypatch.delitem(backends, "relay")  # as in a process that has made none
    with system.gateway() as other, other.connect(cluster.name, relay="never") as same, same.get_client() as client:
        assert client.gather(client.scatter([1, 2], direct=True), direct=True) == [1, 2]


def listeners(client: Client) -> set[str]:
    """The names of the workers that have an address of the relay, or none if not all have."""
    workers = workers_of(client)
    relayed = {info["name"] for address, info in workers.items() if address.startswith("relay://")}
    return relayed if len(relayed) == len(workers) else set()


@pytest.mark.long
def test_workers_of_the_gateway_server_and_those_that_only_dial_out_exchange_results(relayed: Client) -> None:
    before = set(addresses(relayed))
    relayed.cluster.scale(1, worker_type="gateway")
    own = wait_until(lambda: set(addresses(relayed)) - before, what="the gateway server's own worker has joined")
    (stock,) = own
    assert stock.startswith("tls://")
    for one, other in ((stock, min(before)), (min(before), stock)):
        made = relayed.submit(os.urandom, 1_000_000, workers=[one], pure=False)
        assert relayed.submit(len, made, workers=[other], pure=False).result(PATIENCE) == 1_000_000


@pytest.mark.long
def test_what_an_evicted_worker_holds_goes_through_the_relay_before_it_ends(relayed: Client, pool: Any) -> None:
    names = {info["name"]: where for where, info in workers_of(relayed).items()}
    name, where = min(names.items())
    held = relayed.submit(lambda: time.time(), workers=[where], allow_other_workers=True)
    value = held.result(PATIENCE)
    pool.run("condor_vacate_job", JobId.of_worker(name))
    wait_until(lambda: len(listeners(relayed) - {name}) == 2, what="another worker has come in its place")
    assert held.result(PATIENCE) == value  # not computed again


@pytest.mark.long
def test_results_are_right_when_a_worker_is_killed_in_the_middle_of_a_transfer(relayed: Client) -> None:
    one, other = addresses(relayed)
    made = relayed.submit(lambda: bytes(300_000_000), workers=[one], allow_other_workers=True, pure=False)
    made_there = relayed.submit(lambda part: len(part), made, workers=[other], allow_other_workers=True, pure=False)
    wait_until(lambda: made.status == "finished", what="the data is there")

    async def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    # In a process namespace of its own, so that it has to do it itself.
    relayed.run(kill, workers=[one], wait=False)
    assert made_there.result(PATIENCE) == 300_000_000
    wait_until(lambda: len(listeners(relayed)) == 2, what="the killed worker's successor has come")
    assert passed(relayed) == 20_000_000


@pytest.mark.long
def test_work_goes_on_when_the_proxy_was_restarted(relayed: Client, system: Any) -> None:
    before = set(addresses(relayed))
    cluster = relayed.cluster
    system.server.stop_proxy()
    system.server.start_proxy()
    with cluster.get_client() as client:
        wait_until(
            lambda: len(set(addresses(client)) - before) == 2 and not before & set(addresses(client)),
            what="both workers have joined again",
        )
        assert passed(client) == 20_000_000
    reconnected(relayed)


@pytest.mark.long
def test_a_receiver_that_stops_reading_takes_no_memory_of_the_child_and_gets_all_in_the_end(
    relayed: Client,
) -> None:
    one, other = addresses(relayed)

    def stand_still() -> None:
        import subprocess

        subprocess.Popen(["sh", "-c", f"kill -STOP {os.getpid()}; sleep 6; kill -CONT {os.getpid()}"])

    made = relayed.submit(lambda: bytes(200_000_000), workers=[one], pure=False)
    wait_until(lambda: made.status == "finished", what="the data is there")
    pulses(relayed)
    child = psutil.Process(relayed.sync(relayed.scheduler.htcdaskgateway_relay_child))
    scheduler = child.parent()
    assert scheduler is not None
    before = [process.memory_info().rss for process in (child, scheduler)]
    idle = child.num_fds()
    sent = relayed.submit(len, made, workers=[other], pure=False)
    wait_until(lambda: child.num_fds() > idle, what="the transfer has begun")
    relayed.run(stand_still, workers=[other])
    most, deadline = [0, 0], time.monotonic() + 5
    while time.monotonic() < deadline:
        now = [process.memory_info().rss for process in (child, scheduler)]
        most = [max(pair) for pair in zip(most, now, strict=True)]
        time.sleep(0.1)
    assert [now - then < 30_000_000 for now, then in zip(most, before, strict=True)] == [True, True], (before, most)
    assert sent.result(PATIENCE) == 200_000_000


@pytest.mark.long
def test_users_are_warned_when_too_many_pairs_of_workers_meet(relayed: Client) -> None:
    def expect_none(dask_scheduler: Any) -> None:
        dask_scheduler.plugins["htcdaskrelay-1"].most_pairs = 0

    relayed.run_on_scheduler(expect_none)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        assert passed(relayed) == 20_000_000
        wait_until(lambda: any("dataframe.shuffle.method" in str(one.message) for one in found), what="the warning")
        assert passed(relayed) == 20_000_000
    assert len([one for one in found if "dataframe.shuffle.method" in str(one.message)]) == 1


@pytest.mark.long
def test_a_worker_of_the_gateway_server_reaches_htcondors_without_the_relay_with_auto(new_cluster: Any) -> None:
    cluster = new_cluster(cpus=1, memory="1GB", relay="auto")
    cluster.scale(1)
    with Client(cluster) as client:
        client.wait_for_workers(1, timeout=PATIENCE)
        (ours,) = addresses(client)
        cluster.scale(1, worker_type="gateway")
        client.wait_for_workers(2, timeout=PATIENCE)
        (stock,) = set(addresses(client)) - {ours}

        def directly() -> bool:
            made = client.submit(os.urandom, 1_000_000, workers=[ours], pure=False)
            assert client.submit(len, made, workers=[stock], pure=False).result(PATIENCE) == 1_000_000
            return bool(cluster.connections() == (1, 0))

        wait_until(directly, what="the pair counts as one that goes directly")


@pytest.mark.core
@pytest.mark.long
def test_workers_that_reach_each_other_do_so_without_the_relay_with_auto(new_cluster: Any) -> None:
    cluster = new_cluster(cpus=1, memory="1GB", relay="auto")
    cluster.scale(2)
    with Client(cluster) as client:
        client.wait_for_workers(2, timeout=PATIENCE)
        for _ in range(2):  # the first may go through the relay, while it is found out
            assert passed(client) == 20_000_000

        def direct(dask_worker: Any) -> list[bool]:
            from distributed.comm.registry import backends

            return [task.done() and task.result() for task in backends["relay"].connector.verdicts.values()]

        wait_until(lambda: [True] in client.run(direct).values(), what="one reaches the other directly")
        assert not any(False in found for found in client.run(direct).values())
        wait_until(lambda: cluster.connections() == (1, 0), what="the pair counts as one that goes directly")
