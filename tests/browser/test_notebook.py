"""The widget in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import Pool, wait_until

WIDGET = ".jp-Cell:nth-child(1) .jp-OutputArea"
STATUS = ".htcdaskgateway-status"


@pytest.fixture
def gateway_clusters(gateway: Any) -> Iterator[Any]:
    """The names of the clusters that there are; all are stopped after the test."""
    try:
        yield lambda: [report.name for report in gateway.list_clusters()]
    finally:
        for report in gateway.list_clusters():
            gateway.stop_cluster(report.name)


def test_a_notebook_scales_a_cluster_by_its_buttons(
    notebook: Callable[..., Any], gateway_clusters: Callable[[], list[str]], pool: Pool
) -> None:
    lab = notebook(
        "cluster",
        "from htcdaskgateway import HTCGateway\n\ngateway = HTCGateway()\ncluster = gateway.new_cluster()\ncluster",
        "cluster.jobs()",
        "cluster.explain()",
        "cluster.shutdown()",
    )
    lab.run(1)
    lab.see(STATUS, "No HTCondor worker is asked for.", "Idle 0", "Running 0", "Held 0")
    lab.fits(".jp-Cell:nth-child(1) .jp-OutputArea")
    (name,) = gateway_clusters()

    # The page is the user's only hand on it from here on.
    lab.until("return [...document.querySelectorAll('input[type=number]')].some(e => e.offsetParent)")
    lab.fits(".jp-Cell:nth-child(1) .jp-OutputArea")
    lab.enter("input[type=number]", 3)
    lab.click("button", "Scale")
    lab.see(STATUS, "All 3 workers have joined.", "Running 3", "Idle 0", "Joined 3")
    assert pool.statuses(name) == [2, 2, 2]
    lab.looks("widget-running", WIDGET)

    job = pool.jobs(name)[0]
    pool.run("condor_hold", "-reason", "the administrator is looking at it", f"{job['ClusterId']}.{job['ProcId']}")
    lab.see(STATUS, "Asked for 3; 2 have joined.", "Running 2", "Held 1")
    lab.see(WIDGET, "was held by hand", "the administrator is looking at it", "condor_release")
    lab.fits(".jp-Cell:nth-child(1) .jp-OutputArea")
    lab.looks("widget-held", WIDGET)
    for tab, button, words in (("Jobs", "", "Machine"), ("Logs", "Logs", "htcondor-"), ("Why?", "Explain", "Job")):
        lab.tab(tab)
        if button:
            lab.click("button", button)
        lab.see(WIDGET, words)
        lab.looks(f"tab-{tab.lower().strip('?')}", WIDGET)
    lab.tab("Scaling")

    lab.enter("input[type=number]", -1)
    lab.click("button", "Scale")
    lab.see(WIDGET, "0 or more")

    lab.run(2)
    lab.see(".jp-Cell:nth-child(2) .jp-OutputArea", "held", "the administrator is looking at it", "2 running")
    lab.picture("jobs", ".jp-Cell:nth-child(2)")
    lab.run(3)
    lab.see(".jp-Cell:nth-child(3) .jp-OutputArea", "was held by hand", "condor_release")
    lab.picture("explain", ".jp-Cell:nth-child(3)")

    lab.run(4)
    wait_until(lambda: not gateway_clusters(), what="the cluster has ended")
    assert not pool.jobs(name)
    lab.see(WIDGET, "This view of the cluster is closed.")
