"""The notebook's view of a cluster, without a browser; tests/browser has it in one."""

from __future__ import annotations

import html
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import dask
import pytest
from support import PATIENCE, Pool, Tools, wait_until

INTERVAL = 0.1


def buttons(cluster: Any) -> dict[str, Any]:
    cluster._widget()
    return {button.description: button for button in cluster._view._buttons}


def counts(cluster: Any) -> str:
    return str(cluster._view.status.value)


def row(name: str, number: int) -> str:
    return f"{name} <b>{number}</b>"


def test_the_button_scale_brings_workers_and_the_numbers_move(cluster: Any) -> None:
    with dask.config.set({"htcdaskgateway.condor.poll-interval": INTERVAL}):
        cluster._ipython_display_()
        wait_until(lambda: row("Running", 0) in counts(cluster))
        cluster._view._request.value = 2
        buttons(cluster)["Scale"].click()
        wait_until(lambda: row("Running", 2) in counts(cluster), what=lambda: counts(cluster))
        wait_until(lambda: row("Joined", 2) in counts(cluster), what=lambda: counts(cluster))
        wait_until(lambda: not buttons(cluster)["Scale"].disabled)
        assert "All 2 workers have joined." in counts(cluster)
        assert len(cluster.jobs()) == 2


@pytest.mark.long
def test_the_button_adapt_adapts(cluster: Any) -> None:
    with dask.config.set({"htcdaskgateway.condor.poll-interval": INTERVAL}):
        cluster._ipython_display_()
        cluster._view._minimum.value = 1
        cluster._view._maximum.value = 2
        buttons(cluster)["Adapt"].click()
        wait_until(lambda: row("Running", 1) in counts(cluster), what=lambda: counts(cluster))
        assert "Adapts between 1 and 2" in cluster._view.message.value
        cluster._view._request.value = 0
        buttons(cluster)["Scale"].click()
        wait_until(lambda: row("Asked", 0) in counts(cluster), what=lambda: counts(cluster))


def test_the_field_shows_what_is_asked_for_until_somebody_types(new_cluster: Callable[..., Any]) -> None:
    cluster = new_cluster(requirements='Machine == "nowhere"')
    with dask.config.set({"htcdaskgateway.condor.poll-interval": INTERVAL}):
        cluster._ipython_display_()
        cluster.scale(2)
        field = cluster._view._request
        wait_until(lambda: field.value == 2, what=lambda: field.value)
        assert "0 workers, 0 threads" in counts(cluster)
        field.value = 5
        cluster.scale(3)
        wait_until(lambda: row("Asked", 3) in counts(cluster), what=lambda: counts(cluster))
        assert field.value == 5
        buttons(cluster)["Scale"].click()
        wait_until(lambda: row("Asked", 5) in counts(cluster), what=lambda: counts(cluster))
        cluster.scale(1)
        wait_until(lambda: field.value == 1, what=lambda: field.value)


def test_a_held_job_is_seen_without_a_question(cluster: Any, pool: Pool) -> None:
    with dask.config.set({"htcdaskgateway.condor.poll-interval": INTERVAL}):
        cluster.scale(1)
        cluster._ipython_display_()
        pool.run("condor_hold", "-constraint", cluster.fleet.constraint)
        wait_until(lambda: row("Held", 1) in counts(cluster), what=lambda: counts(cluster))


def test_why_a_job_is_held_and_what_to_do_is_beside_the_number(cluster: Any, pool: Pool) -> None:
    with dask.config.set({"htcdaskgateway.condor.poll-interval": INTERVAL}):
        cluster.scale(1)
        cluster._ipython_display_()
        assert cluster._view.held.value == ""
        pool.run("condor_hold", "-reason", "<b>asked</b> for by Ada", "-constraint", cluster.fleet.constraint)
        held = cluster._view.held
        told = wait_until(lambda: held.value, what=lambda: counts(cluster))
        assert "was held by hand" in told
        assert f"`condor_release {cluster.jobs()[0].id}`" in told
        assert "&lt;b&gt;asked&lt;/b&gt; for by Ada" in told
        assert told in cluster._repr_html_()
        assert all(html.escape(line) in told for line in str(cluster.explain().findings[0]).splitlines())
        pool.run("condor_release", "-constraint", cluster.fleet.constraint)
        wait_until(lambda: held.value == "", what="the reason has gone with the hold")


def test_a_view_without_a_dashboard_says_so(cluster: Any) -> None:
    assert f"<a href='{cluster.dashboard_link}'" in cluster._repr_html_()
    cluster.dashboard_link = None
    assert "Not Available" in cluster._repr_html_()


def test_what_has_not_joined_is_never_said_to_be_there(new_cluster: Callable[..., Any]) -> None:
    cluster = new_cluster(requirements='Machine == "nowhere"')
    with dask.config.set({"htcdaskgateway.condor.poll-interval": INTERVAL}):
        cluster._ipython_display_()
        cluster._view._request.value = 3
        buttons(cluster)["Scale"].click()
        wait_until(lambda: "Asked for 3; 0 have joined." in counts(cluster), what=lambda: counts(cluster))
        wait_until(lambda: row("Idle", 3) in cluster._repr_html_(), what=lambda: counts(cluster))
        wait_until(lambda: not buttons(cluster)["Explain"].disabled)
        buttons(cluster)["Explain"].click()
        wait_until(
            lambda: "cannot run in this pool" in cluster._view.why.value, what=lambda: cluster._view.why.value
        )
        wait_until(lambda: not buttons(cluster)["Logs"].disabled)
        buttons(cluster)["Logs"].click()
        wait_until(lambda: "No worker has written" in cluster._view.logs.value)


@pytest.mark.long
def test_a_worker_that_joins_is_seen_to_run_without_waiting_for_the_next_look(cluster: Any) -> None:
    with dask.config.set({"htcdaskgateway.condor.poll-interval": "10m"}):
        cluster._ipython_display_()
        cluster.scale(1)
        wait_until(lambda: row("Joined", 1) in counts(cluster), what=lambda: counts(cluster))
        assert row("Running", 1) in counts(cluster)
        assert row("Idle", 0) in counts(cluster)


@pytest.mark.parametrize("value", [-1, 10**6])
def test_what_goes_wrong_behind_a_button_is_shown_in_the_widget(
    value: int, tool_calls: Tools, cluster: Any, pool: Pool
) -> None:
    tool_calls.answer("condor_submit", stderr="ERROR: <b>quota</b> exceeded", code=1)
    with dask.config.set({"htcdaskgateway.condor.poll-interval": INTERVAL}):
        buttons(cluster)
        message = cluster._view.message
        cluster._view._request.value = value
        buttons(cluster)["Scale"].click()
        told = wait_until(lambda: message.value if "<pre" in message.value else None, what=lambda: message.value)
        assert ("&lt;b&gt;quota&lt;/b&gt; exceeded" if value > 0 else "whole number") in told
        assert "<b>quota" not in told
        wait_until(lambda: not buttons(cluster)["Scale"].disabled, what="the button can be used again")
        # It stays, however often the queue is looked at.
        tool_calls.forget()
        wait_until(lambda: len(tool_calls.calls_of("condor_q")) > 2, what="three looks at the queue")
        assert message.value == told


@pytest.mark.long
def test_a_button_does_not_block_the_notebook(tool_calls: Tools, cluster: Any, pool: Pool) -> None:
    tool_calls.script("condor_submit", f'sleep 3; exec {pool.bin}/condor_submit "$@"')
    buttons(cluster)
    cluster._view._request.value = 1
    buttons(cluster)["Scale"].click()
    assert buttons(cluster)["Scale"].disabled  # it is not done yet
    wait_until(lambda: not buttons(cluster)["Scale"].disabled)


def test_a_queue_that_cannot_be_read_is_shown_and_goes_away(tool_calls: Tools, cluster: Any, pool: Pool) -> None:
    with dask.config.set({"htcdaskgateway.condor.poll-interval": INTERVAL}):
        cluster._ipython_display_()
        tool_calls.answer("condor_q", stderr="Error: no schedd today", code=1)
        wait_until(lambda: "no schedd today" in cluster._view.message.value)
        tool_calls.restore("condor_q")
        wait_until(lambda: cluster._view.message.value == "")


def test_the_widget_is_made_once_and_says_when_it_is_closed(cluster: Any) -> None:
    assert cluster._widget() is cluster._widget()
    found = buttons(cluster)
    cluster.shutdown()
    assert all(button.disabled for button in found.values())
    assert "closed" in counts(cluster)
    assert "Asked" not in counts(cluster), "no old counts"
    assert "The cluster is closed." in cluster._repr_html_()


def test_without_ipywidgets_it_is_html(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert cluster._widget() is None
    cluster.scale(1)
    cluster.jobs()
    page = cluster._repr_html_()
    assert cluster.name in page
    assert "Running <b>" in page
    assert str(cluster.dashboard_link) in page


def test_the_import_of_the_package_brings_no_widgets() -> None:
    heavy = "{'ipywidgets', 'IPython', 'rich', 'jinja2', 'pexpect'}"
    code = (
        "import sys, dask_gateway; before = set(sys.modules); import htcdaskgateway; "
        f"print(({heavy} & set(sys.modules)) - before)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def calls_within(tools: Tools, intervals: int) -> int:
    """Return how often condor_q is run in that many poll intervals."""
    tools.forget()
    threading.Event().wait(intervals * INTERVAL)
    return len(tools.calls_of("condor_q"))


@pytest.mark.long
def test_how_often_the_schedd_is_asked(tool_calls: Tools, new_cluster: Callable[..., Any], capsys: Any) -> None:
    """The promise of the docs, over 30 poll intervals: at most 30 while watched, else 0, one a question."""
    with dask.config.set({"htcdaskgateway.condor.poll-interval": INTERVAL}):
        cluster = new_cluster()
        cluster.scale(1)
        cluster.get_client().wait_for_workers(1, timeout=PATIENCE)
        cluster.gateway.sync(cluster.fleet.settled)
        idle = calls_within(tool_calls, 10)
        for _ in range(3):
            cluster._ipython_display_()
        watched = calls_within(tool_calls, 30)
        cluster._view.box.close()
        wait_until(lambda: cluster._view._watching.done())
        unwatched = calls_within(tool_calls, 10)
        for _ in range(5):
            cluster.jobs()
        asked = len(tool_calls.calls_of("condor_q"))
        cluster.shutdown()
        closed = calls_within(tool_calls, 10)
    with capsys.disabled():
        print(
            f"\ncondor_q calls in 30 poll intervals: watched {watched}; in 10: idle {idle}, widget closed "
            f"{unwatched}, cluster closed {closed}; for 5 times jobs(): {asked}"
        )
    assert idle == 0
    assert 0 < watched <= 30
    assert unwatched == 0
    assert asked == 5
    assert closed == 0
