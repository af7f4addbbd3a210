"""What a cluster shows in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .html import cluster_html, held_html, links_html, status_html
from .widget import ClusterWidget


class NotebookView:
    """What a cluster shows in a notebook; goes before dask-gateway's class among the bases of its own."""

    _view: ClusterWidget | None = None

    # What the cluster has.
    name: Any
    status: Any
    loop: Any
    asynchronous: Any
    dashboard_link: Any
    scheduler_info: Any

    def _job_counts(self) -> Mapping[str, int] | None:
        """Return how many jobs of each kind were last seen; None before and after the cluster is open."""
        raise NotImplementedError

    def _held(self) -> Iterable[str]:
        """Return why jobs are held and what to do, from what was last seen."""
        raise NotImplementedError

    def _widget(self) -> Any:
        """Return the live view, or None where it cannot be."""
        if self._view is None and not self.asynchronous and self.status == "running":
            try:
                self._view = ClusterWidget(self)  # type: ignore[arg-type]
            except ImportError:  # no ipywidgets: _repr_html_ is shown instead
                return None
            # dask-gateway sets its value when workers come and go.
            self._status_widget = self._view.status
        return None if self._view is None else self._view.box

    def _widget_status(self) -> str:
        return status_html(self.scheduler_info.get("workers", {}).values(), self._job_counts())

    def _widget_links(self) -> str:
        return links_html(self.name, self.dashboard_link)

    def _widget_held(self) -> str:
        return held_html(self._held())

    def _ipython_display_(self, **kwargs: Any) -> None:
        super()._ipython_display_(**kwargs)  # type: ignore[misc]
        if self._view is not None:
            self._view.begin()

    def _repr_html_(self) -> str:
        return cluster_html(self._widget_links(), self._widget_status(), self._widget_held(), str(self.status))
