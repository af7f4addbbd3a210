"""What a failed test's report shows of the daemons."""

from __future__ import annotations

from daemon_logs import DaemonLogs
from support import wait_until


def test_the_report_has_what_pool_server_scheduler_and_worker_wrote_since_the_test_began(system, gateway, cluster):
    logs = DaemonLogs()
    logs.end([system])
    cluster.scale(1)
    cluster.wait_for_workers(1, timeout=60)
    with cluster.get_client() as client:
        client.submit(print, "of the worker", flush=True).result(60)
    gateway.list_clusters()

    def missing():  # the server notes a request behind its answer
        found = logs.news([system])
        return [
            name for name in ("SchedLog", "StartLog", "server.log", "scheduler.log") if f"{name} <==" not in found
        ]

    wait_until(lambda: not missing(), what=missing)
    found = logs.news([system])
    assert "of the worker" in found
    assert "Starting dask-gateway-server" not in found

    def silent():  # unless the startd has just written more
        logs.end([system])
        logs.end([])  # a test that uses no pool comes between
        return "StartLog <==" not in logs.news([system])

    wait_until(silent, what="what was there is no news")
