"""The notebook's live view of a cluster: dask-gateway's widget, with what HTCondor does beside the workers."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from . import config, display
from .errors import HTCDaskGatewayError

if TYPE_CHECKING:
    from .cluster import HTCGatewayCluster
    from .fleet import Fleet

logger = logging.getLogger(__name__)


class ClusterWidget:
    """The view of one cluster, which moves by itself while the cluster is open.

    One task on the cluster's event loop asks for the jobs once in each ``htcdaskgateway.condor.poll-interval``, by
    the look at the queue that all share. It begins when the view is first shown and ends with the cluster or when
    the widget is closed; a cluster that is never shown has no such task.

    Parameters
    ----------
    cluster : HTCGatewayCluster
        The cluster; it must not be asynchronous, as its buttons could not wait for the loop they run on.

    Raises
    ------
    ImportError
        There is no ipywidgets.
    """

    def __init__(self, cluster: HTCGatewayCluster) -> None:
        from ipywidgets import HTML, Accordion, Button, HBox, IntText, Layout, VBox

        self._cluster = weakref.ref(cluster)
        self._loop = cluster.loop.asyncio_loop
        self._watching: asyncio.Task[None] | None = None
        self._acting: asyncio.Task[None] | None = None
        self._ended = False
        self._shown: str | None = None
        self._failure: str | None = None  # what is shown while the queue cannot be read
        narrow, wrapping = Layout(width="150px"), Layout(flex_flow="row wrap")
        self.status = HTML(layout=Layout(min_width="150px"))
        self.held = HTML()
        self.message = HTML()
        self._request = IntText(0, description="Workers", layout=narrow)
        self._minimum = IntText(0, description="Minimum", layout=narrow)
        self._maximum = IntText(0, description="Maximum", layout=narrow)
        self._buttons = [Button(description=name, layout=narrow) for name in ("Scale", "Adapt")]
        scale, adapt = self._buttons
        scaling = Accordion(
            [
                HBox([self._request, scale], layout=wrapping),
                HBox([self._minimum, self._maximum, adapt], layout=wrapping),
            ],
            layout=Layout(flex="1 1 330px"),
        )
        scaling.selected_index = None
        scaling.set_title(0, "Manual Scaling")
        scaling.set_title(1, "Adaptive Scaling")
        scale.on_click(lambda _: self._do(self._scale))
        adapt.on_click(lambda _: self._do(self._adapt))
        self.box = VBox(
            [
                HTML("<h2>HTCGatewayCluster</h2>"),
                HBox([self.status, scaling], layout=wrapping),
                self.held,
                self.message,
                HTML(display.cluster_links(cluster)),
            ]
        )
        self.update()

    def update(self) -> None:
        """Show what is known, without asking anybody."""
        cluster = self._cluster()
        if cluster is None:
            return
        text = display.status_html(cluster)
        if text != self._shown:  # each change travels to the browser
            self._shown = self.status.value = text
        self.held.value = display.held_html(cluster)

    def begin(self) -> None:
        """Begin to watch the queue; where that goes on already, nothing happens. Called from any thread."""
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        cluster = self._cluster()
        if cluster is not None and not self._ended and (not self._watching or self._watching.done()):
            self._watching = self._loop.create_task(self._watch())

    async def _watch(self) -> None:
        while self.box.comm is not None:  # it has none any more after close()
            cluster = self._cluster()
            if cluster is None:
                break
            fleet = cluster.fleet
            cluster = None  # else this task would keep the cluster
            await self._look(fleet)
            await asyncio.sleep(config.seconds("condor.poll-interval"))

    async def _look(self, fleet: Fleet) -> None:
        try:
            await fleet.look()
        except HTCDaskGatewayError as error:
            self._failure = self.message.value = display.error_html(error)
        else:
            # What a button ended with stays until the next button.
            if self.message.value == self._failure:
                self.message.value = ""
        self.update()

    async def end(self) -> None:
        """End the watch, and show that the cluster is closed."""
        self._ended = True
        for task in (self._watching, self._acting):
            if task is not None and not task.done():
                task.cancel()
                await asyncio.wait([task])
        for button in self._buttons:
            button.disabled = True
        self.message.value = "<p>This view of the cluster is closed.</p>"

    def _do(self, action: Callable[[HTCGatewayCluster], Coroutine[Any, Any, str]]) -> None:
        """Begin what a button asks for; the notebook goes on meanwhile, and the view tells how it ended."""
        for button in self._buttons:
            button.disabled = True
        self._loop.call_soon_threadsafe(self._act, action)

    def _act(self, action: Callable[[HTCGatewayCluster], Coroutine[Any, Any, str]]) -> None:
        if not self._ended:
            self._acting = self._loop.create_task(self._done(action))

    async def _done(self, action: Callable[[HTCGatewayCluster], Coroutine[Any, Any, str]]) -> None:
        cluster = self._cluster()
        if cluster is None:
            return
        self.message.value = "<p>…</p>"
        try:
            self.message.value = f"<p>{await action(cluster)}</p>"
            await self._look(cluster.fleet)
        except Exception as error:
            # Nobody waits for a button: the user must see whatever went wrong.
            logger.warning("the widget's button failed", exc_info=True)
            self.message.value = display.error_html(error)
        finally:
            if not self._ended:
                for button in self._buttons:
                    button.disabled = False
                self._begin()

    async def _scale(self, cluster: HTCGatewayCluster) -> str:
        n = self._request.value
        await cluster._scale(n)
        return f"Scaled to {n} worker(s)."

    async def _adapt(self, cluster: HTCGatewayCluster) -> str:
        minimum, maximum = self._minimum.value, self._maximum.value or None
        await cluster._adapt(minimum=minimum, maximum=maximum)
        return f"Adapts between {minimum} and {maximum if maximum else 'any number of'} worker(s)."
