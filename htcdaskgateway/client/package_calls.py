"""What a user asks of the packages that a cluster's workers have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .calls import WorkerCalls

if TYPE_CHECKING:
    from ..fleet.code import Synced


class PackageCalls(WorkerCalls):
    """What a user asks of the workers and of their packages."""

    def get_client(self, set_as_default: bool = True) -> Any:
        """Return a client of the cluster, as `dask_gateway.GatewayCluster.get_client` does.

        Where a task fails for lack of code that has changed since the workers got it, a warning says so.
        """
        client = super().get_client(set_as_default=set_as_default)  # type: ignore[misc]
        if self._session.fleet is not None and self._session.spec.packages:
            from ..fleet.stale import watch

            watch(client, self._session.fleet.staging)
        return client

    def sync_packages(self) -> Any:
        """Bring the local code as it is now to the workers: modules beside the notebook, editable installs.

        Each running worker hands its results to one that starts beside it, in its slot, with the new code. Jobs
        that start later have the new code and, if something was installed meanwhile, the new packages, too.

        Returns
        -------
        Synced
            How many workers have started anew, and what was sent to each.

        Raises
        ------
        ConfigError
            The cluster was not made with ``packages``, or the code cannot be sent.
        PackagesError
            A worker could not be started anew; it goes on with the code that it had.
        """
        return self.gateway.sync(self._sync_packages)

    async def _sync_packages(self) -> Synced:
        from ..fleet.code import sync

        return await sync(self.fleet)
