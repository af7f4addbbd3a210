"""What Dask's public client offers, each as a small check that holds on any cluster of two workers with one thread.

A check gets a client and an empty directory. What it sends is defined inside it, so that it travels by value: this
module is not where it runs. `CHECKS` has them by name; `COVERED` has the methods of `Client` that each uses.
"""

from __future__ import annotations

import logging
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import distributed
import pytest
from dask.distributed import Client
from support import wait_until, workers_of

TIMEOUT = 60

CHECKS: dict[str, Callable[[Client, Path], None]] = {}
COVERED: dict[str, tuple[str, ...]] = {}


def covers(*methods: str) -> Callable[[Any], Any]:
    """Make a function a check that uses these methods of `Client`."""

    def register(check: Any) -> Any:
        CHECKS[check.__name__] = check
        COVERED[check.__name__] = methods
        return check

    return register


def addresses(client: Client) -> list[str]:
    return list(workers_of(client))


@covers("submit", "map", "gather", "futures_of", "sync", "loop", "asynchronous")
def submit_and_gather(client: Client, _: Path) -> None:
    futures = client.map(lambda x: x + 1, range(20), pure=False)
    total = client.submit(sum, futures, pure=False)
    assert total.result(TIMEOUT) == 210
    assert client.gather(futures) == list(range(1, 21))
    assert distributed.futures_of(client.persist(dask.delayed(sum)([1, 2])))
    assert client.futures_of(total) == [total]
    assert not client.asynchronous
    assert client.loop
    assert client.sync(client.scheduler.identity)["type"] == "Scheduler"


@covers("compute", "persist", "get", "normalize_collection")
def collections(client: Client, _: Path) -> None:
    lazy = dask.delayed(sum)([1, 2])
    assert client.compute(lazy).result(TIMEOUT) == 3
    assert client.persist(lazy).compute() == 3
    assert client.normalize_collection(lazy).compute() == 3
    assert client.get({"x": (sum, [1, 2])}, "x") == 3
    assert dask.compute(lazy, lazy) == (3, 3)


@covers("scatter", "replicate", "rebalance", "who_has", "has_what", "nbytes", "ncores", "nthreads")
def data(client: Client, _: Path) -> None:
    client.amm.stop()  # it drops copies that nobody waits for
    everywhere = client.scatter({"a": 1}, broadcast=True)
    assert {len(where) for where in client.who_has(everywhere).values()} == {2}
    there = addresses(client)[0]
    held = client.scatter(list(range(10)), workers=[there], hash=False)
    assert set(client.has_what([there])[there]) >= {future.key for future in held}
    assert client.nbytes([held[0].key], summary=False)
    client.replicate(held[:1], n=2)
    assert len(client.who_has(held[0])[held[0].key]) == 2
    client.amm.start()
    client.rebalance(held)
    assert client.gather(held) == list(range(10))
    assert client.nthreads() == client.ncores() == dict.fromkeys(addresses(client), 1)


@covers("processing", "call_stack", "story", "cancel")
def looking_at_work(client: Client, directory: Path) -> None:
    # No event of Dask: a client that begins in a worker at the moment of cancel() stays there, broken, for good.
    mark = directory / "mark"

    def waits_for_a_mark(mark: Path) -> None:
        end = time.monotonic() + 60
        while not mark.exists() and time.monotonic() < end:
            time.sleep(0.01)

    future = client.submit(waits_for_a_mark, mark, pure=False)
    wait_until(lambda: any(client.processing().values()), what="the task runs")
    wait_until(lambda: "waits_for_a_mark" in str(client.call_stack(future)), what="its stack is seen")
    other = client.submit(waits_for_a_mark, mark, pure=False)
    client.cancel(other)
    wait_until(lambda: other.status == "cancelled", what="it is cancelled")
    mark.touch()  # before it ends: what runs is not interrupted, and would keep a thread from the next check
    future.result(TIMEOUT)
    assert client.story(future.key)


@covers("retry")
def failures(client: Client, directory: Path) -> None:
    mark = str(directory / "mark")

    def fails_once(path: str, awaited: str | None = None) -> str:
        try:
            Path(path).touch(exist_ok=False)
        except FileExistsError:
            while awaited and not Path(awaited).exists():
                time.sleep(0.01)
            return "whole"
        raise ValueError("the first time")

    assert client.submit(fails_once, mark + "1", retries=1).result(TIMEOUT) == "whole"
    # Dask's client loses a result that comes before retry() returns.
    failed = client.submit(fails_once, mark + "2", mark + "2-retried")
    with pytest.raises(ValueError, match="the first time"):
        failed.result(TIMEOUT)
    assert isinstance(failed.exception(), ValueError)
    client.retry([failed])
    Path(mark + "2-retried").touch()
    assert failed.result(TIMEOUT) == "whole"

    def reschedules(path: str) -> str:
        try:
            Path(path).touch(exist_ok=False)
        except FileExistsError:
            return "again"
        raise distributed.Reschedule

    assert client.submit(reschedules, mark + "3").result(TIMEOUT) == "again"


@covers()
def waiting(client: Client, _: Path) -> None:
    futures = client.map(lambda x: x, range(5), pure=False)
    assert {future.result() for future in distributed.as_completed(futures, timeout=TIMEOUT)} == set(range(5))
    assert not distributed.wait(futures, timeout=TIMEOUT).not_done
    called = threading.Event()
    futures[0].add_done_callback(lambda future: called.set())
    assert called.wait(TIMEOUT)
    distributed.fire_and_forget(client.submit(lambda: 1, pure=False))


@covers("run", "run_on_scheduler")
def running(client: Client, _: Path) -> None:
    assert set(client.run(lambda dask_worker: dask_worker.address).items()) == {(a, a) for a in addresses(client)}
    assert client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.workers)) == 2

    async def later() -> int:
        return 7

    assert set(client.run(later).values()) == {7}


@covers("upload_file")
def uploading(client: Client, directory: Path) -> None:
    name = f"uploaded_{time.time_ns()}"
    (directory / f"{name}.py").write_text("ANSWER = 42\n")
    client.upload_file(str(directory / f"{name}.py"))

    def look(name: str) -> int:
        return int(__import__(name).ANSWER)

    assert client.submit(look, name).result(TIMEOUT) == 42


@covers(
    "register_plugin",
    "unregister_worker_plugin",
    "unregister_scheduler_plugin",
    "register_worker_callbacks",
)
def plugins(client: Client, _: Path) -> None:
    class OnWorkers(distributed.WorkerPlugin):
        name = "conformance-worker"

        def setup(self, worker: Any) -> None:
            worker.conformance = "here"

        def teardown(self, worker: Any) -> None:
            del worker.conformance

    class OnScheduler(distributed.SchedulerPlugin):
        name = "conformance-scheduler"

    client.register_plugin(OnWorkers())
    assert set(client.run(lambda dask_worker: dask_worker.conformance).values()) == {"here"}
    client.unregister_worker_plugin("conformance-worker")
    assert set(client.run(lambda dask_worker: hasattr(dask_worker, "conformance")).values()) == {False}
    client.register_plugin(OnScheduler())
    assert client.run_on_scheduler(lambda dask_scheduler: "conformance-scheduler" in dask_scheduler.plugins)
    client.unregister_scheduler_plugin("conformance-scheduler")

    def on_start(dask_worker: Any) -> None:
        dask_worker.called_back = True

    client.register_worker_callbacks(on_start)
    assert set(client.run(lambda dask_worker: dask_worker.called_back).values()) == {True}


@covers("publish_dataset", "list_datasets", "get_dataset", "unpublish_dataset", "set_metadata", "get_metadata")
def what_lasts(client: Client, _: Path) -> None:
    future = client.submit(sum, [1, 2], pure=False)
    client.publish_dataset(conformance=future)
    assert "conformance" in client.list_datasets()
    assert client.get_dataset("conformance").result(TIMEOUT) == 3
    client.unpublish_dataset("conformance")
    client.set_metadata(["conformance", "x"], 5)
    assert client.get_metadata(["conformance", "x"]) == 5


@covers("log_event", "get_events", "subscribe_topic", "unsubscribe_topic")
def events(client: Client, _: Path) -> None:
    seen: list[Any] = []
    client.subscribe_topic("conformance", lambda event: seen.append(event[1]))

    def heard() -> bool:
        # Again and again: the subscription takes another way to the scheduler, and may come after the event.
        client.log_event("conformance", "from the client")
        return "from the client" in seen

    wait_until(heard, what="an event of the client's is heard")
    client.submit(lambda: distributed.get_worker().log_event("conformance", "from a task"), pure=False).result(
        TIMEOUT
    )
    wait_until(lambda: "from a task" in seen, what="an event of a task's is heard")
    assert len(client.get_events("conformance")) >= 2
    client.unsubscribe_topic("conformance")


@covers("get_scheduler_logs", "get_worker_logs", "forward_logging", "unforward_logging")
def logs(client: Client, _: Path) -> None:
    assert client.get_scheduler_logs(n=1)
    assert set(client.get_worker_logs(n=1)) == set(addresses(client))
    found: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    logger, handler = logging.getLogger("conformance"), Handler()
    logger.addHandler(handler)
    client.forward_logging("conformance", level=logging.WARNING)
    try:
        client.submit(lambda: logging.getLogger("conformance").warning("from a task"), pure=False).result(TIMEOUT)
        wait_until(lambda: "from a task" in found, what="the worker's words come back")
    finally:
        client.unforward_logging("conformance")
        logger.removeHandler(handler)


@covers("scheduler_info", "get_versions", "wait_for_workers", "amm")
def about_the_cluster(client: Client, _: Path) -> None:
    workers = set(workers_of(client))
    assert len(workers) == 2
    # What comes every two seconds, and tells of no worker, may be returned instead.
    wait_until(lambda: set(client.scheduler_info(n_workers=-1)["workers"]) == workers)
    versions = client.get_versions(check=True)
    assert set(versions["workers"]) == workers
    client.wait_for_workers(2, timeout=TIMEOUT)
    client.amm.stop()
    assert not client.amm.running()
    client.amm.start()
    assert client.amm.running()


@covers("get_task_stream", "profile", "dump_cluster_state")
def diagnostics(client: Client, directory: Path) -> None:
    def streamed() -> Any:
        with distributed.get_task_stream(client=client) as stream:
            client.submit(sum, [1, 2], pure=False).result(TIMEOUT)
        return stream.data

    # What a task's times are is a guess of the worker, too late on a busy machine.
    wait_until(streamed, what="a task is seen in the stream")
    assert client.get_task_stream(count=1)

    def profiled() -> Any:
        client.submit(time.sleep, 0.1, pure=False).result(TIMEOUT)
        return client.profile()["count"]

    wait_until(profiled, what="the worker has told what it spent its time on")
    client.dump_cluster_state(str(directory / "dump"))
    assert list(directory.glob("dump*"))
    sampler = distributed.diagnostics.MemorySampler()
    with sampler.sample("conformance", client=client, interval=0.05):
        client.submit(time.sleep, 0.2, pure=False).result(TIMEOUT)
    assert sampler.samples["conformance"]


@covers("dashboard_link")
def reports_and_dashboards(client: Client, directory: Path) -> None:
    pytest.importorskip("bokeh", reason="without bokeh there is neither a report nor a dashboard")
    with distributed.performance_report(filename=str(directory / "report.html")):
        client.submit(sum, [1, 2], pure=False).result(TIMEOUT)
    assert "Dask Performance Report" in (directory / "report.html").read_text()
    with urllib.request.urlopen(client.dashboard_link, timeout=TIMEOUT) as page:
        assert "Dask" in page.read().decode()


@covers("get_executor", "as_current", "current")
def other_ways_in(client: Client, _: Path) -> None:
    with client.get_executor(pure=False) as executor:
        assert list(executor.map(lambda x: x * 2, range(4))) == [0, 2, 4, 6]
    with client.as_current():
        assert Client.current() is client
        assert distributed.get_client() is client


@covers()
def locks_and_their_kin(client: Client, directory: Path) -> None:
    counter = directory / "counter"
    counter.write_text("0")

    def add(path: str, kind: str) -> None:
        make = {
            "lock": lambda: distributed.Lock("conformance-lock"),
            "multi": lambda: distributed.MultiLock(["a", "b"]),
            "semaphore": lambda: distributed.Semaphore(max_leases=1, name="conformance-semaphore"),
        }[kind]
        with make():
            value = int(Path(path).read_text())
            time.sleep(0.02)
            Path(path).write_text(str(value + 1))

    for number, kind in enumerate(("lock", "multi", "semaphore"), start=1):
        client.gather([client.submit(add, str(counter), kind, pure=False) for _ in range(4)])
        assert counter.read_text() == str(4 * number)


@covers()
def queues_variables_and_events(client: Client, _: Path) -> None:
    queue = distributed.Queue("conformance-queue", client=client)
    variable = distributed.Variable("conformance-variable", client=client)

    def take_part() -> int:
        distributed.Event("conformance-event").wait(60)
        number = distributed.Queue("conformance-queue").get(timeout=60)
        distributed.Variable("conformance-variable").set(number + 1)
        return int(number)

    future = client.submit(take_part, pure=False)
    queue.put(41)
    distributed.Event("conformance-event", client=client).set()
    assert future.result(TIMEOUT) == 41
    assert variable.get(timeout=TIMEOUT) == 42
    variable.delete()


@covers()
def actors(client: Client, _: Path) -> None:
    class Counter:
        n = 0

        def __init__(self) -> None:
            self.n = 0

        def add(self) -> int:
            self.n += 1
            return self.n

        def ask(self) -> int:
            return int(distributed.get_client().submit(sum, [self.n, 1], pure=False).result())

    counter = client.submit(Counter, actor=True, pure=False).result(TIMEOUT)
    assert counter.add().result(TIMEOUT) == 1
    assert counter.n == 1
    assert client.submit(lambda actor: actor.add().result(), counter, pure=False).result(TIMEOUT) == 2
    assert counter.ask().result(TIMEOUT) == 3


@covers()
def clients_of_tasks(client: Client, _: Path) -> None:
    def with_get_client(n: int) -> int:
        own = distributed.get_client()
        futures = own.map(lambda x: x * x, range(n), pure=False)
        distributed.secede()
        found = own.gather(futures)
        distributed.rejoin()
        return sum(found)

    def with_worker_client(n: int) -> int:
        with distributed.worker_client() as own:
            return sum(own.gather(own.map(lambda x: x * x, range(n), pure=False)))

    def with_compute(n: int) -> int:
        return int(dask.delayed(sum)([dask.delayed(lambda x: x * x, pure=False)(x) for x in range(n)]).compute())

    def with_own(n: int) -> int:
        worker = distributed.get_worker()
        address, security = worker.scheduler.address, worker.security
        with Client(address, security=security, set_as_default=False) as own, distributed.worker_client():
            return int(sum(own.gather(own.map(lambda x: x * x, range(n), pure=False))))

    def in_threads(n: int) -> int:
        found: list[int] = []

        def ask(own: Client) -> None:
            found.extend(own.gather(own.map(lambda x: x * x, range(n), pure=False)))

        with distributed.worker_client() as own:
            threads = [threading.Thread(target=ask, args=(own,)) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        return sum(found) // 2

    for ask in (with_get_client, with_worker_client, with_compute, with_own, in_threads):
        assert client.submit(ask, 4, pure=False).result(TIMEOUT) == 14, ask.__name__
    assert client.gather([client.submit(with_worker_client, 3, pure=False) for _ in range(4)]) == [5] * 4


@covers()
def where_and_when(client: Client, directory: Path) -> None:
    def where() -> str:
        return str(distributed.get_worker().address)

    one = addresses(client)[0]
    assert client.submit(where, workers=[one], pure=False).result(TIMEOUT) == one
    assert client.submit(where, resources={"slots": 1}, pure=False).result(TIMEOUT) in addresses(client)
    with dask.annotate(workers=[one], priority=10, retries=1, resources={"slots": 1}):
        assert dask.delayed(where, pure=False)().compute(optimize_graph=False) == one

    def notes(path: str, n: int) -> None:
        with Path(path).open("a") as file:
            file.write(str(n))

    gate = distributed.Event(f"gate-{time.time_ns()}", client=client)

    def waits(name: str) -> None:
        distributed.Event(name).wait(60)

    blocked = client.submit(waits, gate.name, workers=[one], pure=False)
    wait_until(lambda: blocked.key in client.processing()[one], what="the worker is busy")
    order = str(directory / "order")
    futures = [client.submit(notes, order, n, priority=n, workers=[one], pure=False) for n in (1, 3, 2)]
    keys = {future.key for future in futures}

    def waiting(dask_worker: Any) -> bool:
        return bool(keys <= dask_worker.state.tasks.keys())

    wait_until(lambda: client.run(waiting, workers=[one])[one], what="the worker has them all")
    gate.set()
    client.gather([blocked, *futures])
    assert Path(order).read_text() == "321"


@covers()
def arrays_rechunk_by_p2p(client: Client, _: Path) -> None:
    array = pytest.importorskip("dask.array")
    pytest.importorskip("pyarrow")
    with dask.config.set({"array.rechunk.method": "p2p"}):
        x = array.arange(10_000, chunks=1000).reshape(100, 100).rechunk((100, 10)).rechunk((10, 100))
        assert int(x.sum().compute()) == sum(range(10_000))


@covers()
def dataframes_shuffle_by_p2p(client: Client, _: Path) -> None:
    pytest.importorskip("pyarrow")
    pandas = pytest.importorskip("pandas")
    dataframe = pytest.importorskip("dask.dataframe")
    left = dataframe.from_pandas(pandas.DataFrame({"k": range(200), "a": range(200)}), npartitions=4)
    right = dataframe.from_pandas(pandas.DataFrame({"k": range(0, 400, 2), "b": range(200)}), npartitions=3)
    with dask.config.set({"dataframe.shuffle.method": "p2p"}):
        merged = left.merge(right, on="k").compute()
    assert sorted(merged["k"]) == list(range(0, 200, 2))


@covers()
def publish_and_subscribe(client: Client, _: Path) -> None:
    if not hasattr(distributed, "Pub"):
        pytest.skip("newer versions have topics instead")

    def publish() -> None:
        distributed.Pub("conformance-topic").put("hello")

    subscription = distributed.Sub("conformance-topic", client=client)
    client.submit(publish, pure=False).result(TIMEOUT)
    assert subscription.get(timeout=TIMEOUT) == "hello"
