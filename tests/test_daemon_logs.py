"""What a failed test's report shows of the daemons."""

from __future__ import annotations

from daemon_logs import DaemonLogs


def test_the_report_has_what_pool_server_scheduler_and_worker_wrote_since_the_test_began(system, gateway, cluster):
    logs = DaemonLogs()
    logs.end([system])
    cluster.scale(1)
    cluster.wait_for_workers(1, timeout=60)
    with cluster.get_client() as client:
        client.submit(print, "of the worker", flush=True).result(60)
    gateway.list_clusters()
    found = logs.news([system])
    assert [
        name for name in ("SchedLog", "StartLog", "server.log", "scheduler.log") if f"{name} <==" not in found
    ] == []
    assert "of the worker" in found
    assert "Starting dask-gateway-server" not in found
    logs.end([system])
    logs.end([])  # a test that uses no pool comes between
    assert "StartLog <==" not in logs.news([system])
