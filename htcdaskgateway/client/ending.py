"""How a cluster ends: what the gateway server tells of it, and how its other clients are told."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import Any

import aiohttp
from dask_gateway.client import ClusterStatus, GatewayClusterError, GatewayServerError
from distributed.core import rpc

from ..condor.schedd import check_schedd
from ..errors import SchedulerError
from ..scheduler.link import SchedulerLink
from ..worker.staging import noted_schedd

logger = logging.getLogger(__name__)

# How long the server may take to say what became of a cluster, in seconds.
_REPORT_TIMEOUT = 10.0
_UNREACHABLE = (aiohttp.ClientError, OSError, asyncio.TimeoutError, GatewayClusterError, GatewayServerError)


def no_fleet(cluster_name: str | None, status: str) -> str:
    """Return in words why a cluster has no jobs to ask for."""
    if status in ("closing", "closed"):
        return (
            f"The cluster {cluster_name} is closed. Make a new one, or connect to one of gateway.list_clusters()."
        )
    return f"The cluster {cluster_name or ''} is {status}."


async def why_ended(gateway: Any, cluster_name: str) -> str | None:
    """Return in words why a cluster has ended, as far as the server tells; None if it has not, or who knows."""
    try:
        report = await asyncio.wait_for(gateway._cluster_report(cluster_name), _REPORT_TIMEOUT)
    except ValueError:
        return f"the cluster {cluster_name} has ended: the gateway does not know it any more"
    except _UNREACHABLE as error:
        logger.info("the gateway does not tell what became of %s: %s", cluster_name, error)
        return None
    at = f" at {report.stop_time:%H:%M:%S}" if report.stop_time else ""
    if report.status is ClusterStatus.FAILED:
        return f"the cluster {cluster_name} has failed{at}; the gateway's logs say why"
    if report.status in (ClusterStatus.STOPPING, ClusterStatus.STOPPED):
        return (
            f"the cluster {cluster_name} has ended: the gateway has stopped it{at}, after its idle timeout, or "
            "because some client or an administrator said so"
        )
    return None


async def announce_end(gateway: Any, cluster_name: str) -> str:
    """Tell all clients of a cluster that it ends, so that none submits any more; return its schedd's name."""
    known = noted_schedd(cluster_name)
    try:
        report = await asyncio.wait_for(gateway._cluster_report(cluster_name), _REPORT_TIMEOUT)
    except (ValueError, *_UNREACHABLE) as error:  # jobs may be all that is left of it
        logger.info("the gateway does not tell where the scheduler of %s is: %s", cluster_name, error)
        return known
    if report.status is not ClusterStatus.RUNNING or report.security is None:
        return known
    comm = rpc(report.scheduler_address, connection_args=report.security.get_connection_args("client"))
    try:
        link = SchedulerLink(comm, functools.partial(why_ended, gateway, cluster_name))
        known = check_schedd((await link.note_closing()).schedd) or known
    except SchedulerError as error:
        logger.info("the end of %s could not be announced: %s", cluster_name, error)
    finally:
        await comm.close_rpc()
    return known
