"""The notebook's live view of a cluster: dask-gateway's widget, with what HTCondor does beside the workers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from .. import config
from ..errors import HTCDaskGatewayError
from ..plain import counted
from .html import error_html, held_html, jobs_html, pre_html
from .overview import Overview

logger = logging.getLogger(__name__)

_PAUSE = 1.0
"""How long no look follows another, however many workers come, in seconds."""


class Watched(Protocol):
    """What the view needs of the cluster that it shows."""

    loop: Any

    def _widget_status(self) -> str: ...

    def _widget_links(self) -> str: ...

    def _overview(self) -> Overview: ...

    def _widget_look(self) -> Callable[[float | None], Awaitable[Any]]: ...

    async def _logs(self) -> Any: ...

    async def _explain(self) -> Any: ...

    async def _scale(self, n: int) -> None: ...

    async def _adapt(self, minimum: int | None, maximum: int | None) -> Any: ...


class ClusterWidget:
    """The view of one cluster, which moves by itself while the cluster is open.

    One task on the cluster's event loop asks for the jobs once in each ``htcdaskgateway.condor.poll-interval``, by
    the look at the queue that all share. It begins when the view is first shown and ends with the cluster or when
    the widget is closed; a cluster that is never shown has no such task.

    Parameters
    ----------
    cluster : Watched
        The cluster; it must not be asynchronous, as its buttons could not wait for the loop they run on.

    Raises
    ------
    ImportError
        There is no ipywidgets.
    """

    def __init__(self, cluster: Watched) -> None:
        from ipywidgets import HTML, Button, HBox, IntText, Layout, Tab, VBox

        self._cluster = weakref.ref(cluster)
        self._loop = cluster.loop.asyncio_loop
        self._watching: asyncio.Task[None] | None = None
        self._acting: asyncio.Task[None] | None = None
        self._ended = False
        self._changed = asyncio.Event()
        self._failure: str | None = None  # what is shown while the queue cannot be read
        narrow, wrapping, wide = Layout(width="150px"), Layout(flex_flow="row wrap"), Layout(width="auto")
        self.status, self.held, self.message = (HTML(layout=Layout(width="auto")) for _ in range(3))
        self.jobs, self.logs, self.why = (HTML(layout=Layout(width="auto")) for _ in range(3))
        self._request = IntText(0, description="Workers", layout=narrow)
        self._filled = 0  # what stands in the field, if nobody has typed there
        self._minimum = IntText(0, description="Minimum", layout=narrow)
        self._maximum = IntText(0, description="Maximum", layout=narrow)
        self._buttons = [Button(description=name, layout=narrow) for name in ("Scale", "Adapt", "Logs", "Explain")]
        scale, adapt, logs, explain = self._buttons
        scaling = VBox(
            [
                HBox([self._request, scale], layout=wrapping),
                HBox([self._minimum, self._maximum, adapt], layout=wrapping),
            ]
        )
        self.tabs = Tab([scaling, self.jobs, VBox([logs, self.logs]), VBox([explain, self.why])], layout=wide)
        for place, title in enumerate(("Scaling", "Jobs", "Logs", "Why?")):
            self.tabs.set_title(place, title)
        for button, action in zip(
            self._buttons, (self._scale, self._adapt, self._show_logs, self._show_why), strict=True
        ):
            button.on_click(lambda _, action=action: self._do(action))
        self.box = VBox(
            [HTML(cluster._widget_links(), layout=wide), self.status, self.held, self.message, self.tabs],
            layout=wide,
        )
        self.update()

    def update(self) -> None:
        """Show what is known, without asking anybody."""
        cluster = self._cluster()
        if cluster is None or self._ended:
            return
        seen = cluster._overview()
        if self._request.value == self._filled:
            self._request.value = self._filled = seen.asked * seen.processes
        # ipywidgets sends to the browser only what has changed.
        self.status.value = cluster._widget_status()
        self.held.value = held_html(seen.holds)
        self.jobs.value = jobs_html(seen.jobs_html)

    @property
    def value(self) -> str:
        """The HTML of the counts; dask-gateway sets it when workers come and go."""
        return str(self.status.value)

    @value.setter
    def value(self, new: str) -> None:
        self.update()
        self._changed.set()

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
            look = cluster._widget_look()
            cluster = None  # else this task would keep the cluster
            # Workers have come or gone: what was seen of their jobs is out of date.
            await self._look(look, 0 if self._changed.is_set() else None)
            await asyncio.sleep(min(_PAUSE, config.seconds("condor.poll-interval")))
            rest = config.seconds("condor.poll-interval") - _PAUSE
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), max(0, rest))

    async def _look(self, look: Callable[[float | None], Awaitable[Any]], max_age: float | None) -> None:
        self._changed.clear()
        try:
            await look(max_age)
        except HTCDaskGatewayError as error:
            self._failure = self.message.value = error_html(error)
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
        self.status.value = "<div class='htcdaskgateway-status'>This view of the cluster is closed.</div>"
        self.held.value = self.message.value = self.jobs.value = self.logs.value = self.why.value = ""

    def _do(self, action: Callable[[Watched], Coroutine[Any, Any, str]]) -> None:
        """Begin what a button asks for; the notebook goes on meanwhile, and the view tells how it ended."""
        for button in self._buttons:
            button.disabled = True
        self._loop.call_soon_threadsafe(self._act, action)

    def _act(self, action: Callable[[Watched], Coroutine[Any, Any, str]]) -> None:
        if not self._ended:
            self._acting = self._loop.create_task(self._done(action))

    async def _done(self, action: Callable[[Watched], Coroutine[Any, Any, str]]) -> None:
        cluster = self._cluster()
        if cluster is None:
            return
        self.message.value = "<p>…</p>"
        try:
            told = await action(cluster)
            self.message.value = f"<p>{told}</p>" if told else ""
            await self._look(cluster._widget_look(), 0)
        except Exception as error:
            # Nobody waits for a button: the user must see whatever went wrong.
            logger.warning("the widget's button failed", exc_info=True)
            self.message.value = error_html(error)
        finally:
            if not self._ended:
                for button in self._buttons:
                    button.disabled = False
                self._begin()

    async def _scale(self, cluster: Watched) -> str:
        n = self._request.value
        await cluster._scale(n)
        self._filled = n
        return ""  # the counts tell how far it is

    async def _adapt(self, cluster: Watched) -> str:
        minimum, maximum = self._minimum.value, self._maximum.value or None
        await cluster._adapt(minimum=minimum, maximum=maximum)
        return f"Adapts between {minimum} and {counted(maximum, 'worker') if maximum else 'any number of workers'}."

    async def _show_logs(self, cluster: Watched) -> str:
        self.logs.value = jobs_html((await cluster._logs())._repr_html_())
        return ""

    async def _show_why(self, cluster: Watched) -> str:
        self.why.value = pre_html(str(await cluster._explain()))
        return ""
