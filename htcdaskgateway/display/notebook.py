"""What a cluster shows in a notebook."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from .html import cluster_html, links_html, status_html
from .overview import Overview
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

    def _overview(self) -> Overview:
        """Return what was last seen of the cluster."""
        raise NotImplementedError

    def _widget_look(self) -> Callable[[float | None], Awaitable[Any]]:
        """Return what looks at the cluster; it takes how old the answer may be."""
        raise NotImplementedError

    def _widget(self) -> Any:
        """Return the live view, or None where it cannot be."""
        if self._view is None and not self.asynchronous and self.status == "running":
            try:
                self._view = ClusterWidget(self)  # type: ignore[arg-type]
            except ImportError:  # no ipywidgets: _repr_html_ is shown instead
                return None
            # dask-gateway sets its value when workers come and go.
            self._status_widget = self._view
        return None if self._view is None else self._view.box

    def _widget_status(self) -> str:
        return status_html(self._overview())

    def _widget_links(self) -> str:
        return links_html(self.name, self.dashboard_link)

    def _ipython_display_(self, **kwargs: Any) -> None:
        super()._ipython_display_(**kwargs)  # type: ignore[misc]
        if self._view is not None:
            self._view.begin()

    def _repr_html_(self) -> str:
        return cluster_html(self._widget_links(), self._overview())
