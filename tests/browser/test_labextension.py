"""dask-labextension's sidebar."""

from __future__ import annotations

from typing import Any

from support import Pool, wait_until

SIDEBAR = ".dask-DaskClusterManager"


def test_the_sidebar_makes_scales_and_shuts_down_a_cluster(lab: Any, gateway: Any, pool: Pool) -> None:
    assert not gateway.list_clusters()
    lab.open()
    lab.driver.execute_script("jupyterapp.shell.activateById('dask-dashboard-launcher')")
    try:
        lab.click(f"{SIDEBAR} button, {SIDEBAR} [role=button], {SIDEBAR} jp-button", "NEW")
        lab.see(SIDEBAR, "HTCGatewayCluster 1", "Number of Workers: 0")
        (report,) = gateway.list_clusters()

        lab.click(f"{SIDEBAR} button", "SCALE")
        lab.until("return !!document.querySelector('.jp-Dialog input[type=number]')")
        lab.enter(".jp-Dialog input[type=number]", 2)
        lab.picture("labextension-scale")
        lab.press(".jp-Dialog .jp-mod-accept")
        wait_until(lambda: pool.statuses(report.name) == [2, 2], what="two workers run")
        lab.see(SIDEBAR, "Number of Workers: 2")
        lab.picture("labextension")

        lab.click(f"{SIDEBAR} button", "SHUTDOWN")
        wait_until(lambda: not pool.jobs(report.name) and not gateway.list_clusters(), what="all is gone")
        lab.until(f"return !document.querySelector('{SIDEBAR}').innerText.includes('Number of Workers')")
    finally:
        for report in gateway.list_clusters():
            gateway.stop_cluster(report.name)
