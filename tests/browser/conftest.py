"""A real JupyterLab in headless Chromium; `scripts/test-browser` runs these, a plain pytest leaves them out."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import wait_until

from htcdaskgateway.local import LocalSystem
from htcdaskgateway.local.processes import free_ports

if os.environ.get("BROWSER_TESTS") != "1":
    collect_ignore_glob = ["test_*.py"]

LABEXTENSION = {
    "labextension": {
        "factory": {"module": "htcdaskgateway", "class": "HTCGatewayCluster", "args": [], "kwargs": {}},
        "default": {"workers": None, "adapt": None},
    },
    "htcdaskgateway": {"condor": {"poll-interval": "1s"}},
}


class Lab:
    """A JupyterLab, and a browser that shows it."""

    def __init__(self, address: str, token: str, directory: Path, driver: Any) -> None:
        self.address, self.token, self.directory, self.driver = address, token, directory, driver

    def open(self, path: str = "") -> None:
        """Show the Lab, or one of its documents, and wait until it is up."""
        self.driver.get(f"{self.address}/lab{path}?token={self.token}&reset")
        self.until("return !!(window.jupyterapp && window.jupyterapp.restored)")
        self.driver.execute_async_script("const done = arguments[0]; jupyterapp.restored.then(() => done(1))")

    def run(self, cell: int) -> None:
        """Run a cell of the notebook, the first being 1."""
        self.driver.execute_script(
            "jupyterapp.shell.currentWidget.content.activeCellIndex = arguments[0] - 1;"
            "jupyterapp.commands.execute('notebook:run-cell')",
            cell,
        )

    def until(self, script: str, timeout: float = 90) -> Any:
        """Wait until a script returns something true."""
        return wait_until(
            lambda: self.driver.execute_script(script),
            timeout=timeout,
            what=lambda: f"{script}\n{self.driver.execute_script('return document.body.innerText')[-3000:]}",
        )

    def text(self, selector: str) -> str:
        """Return what a person reads in an element; nothing where it is not there."""
        found = self.driver.execute_script(
            "const e = document.querySelector(arguments[0]); return e && e.innerText", selector
        )
        return " ".join((found or "").split())

    def see(self, selector: str, *words: str, timeout: float = 90) -> None:
        """Wait until an element shows these words."""
        wait_until(
            lambda: all(word in self.text(selector) for word in words),
            timeout=timeout,
            what=lambda: f"{words} in {self.text(selector)!r}; on the page:\n{self.text('body')[-3000:]}",
        )

    def scrolled(self, selector: str) -> list[str]:
        """Return the elements in that one that have a horizontal scroll bar, and by how much they are too wide."""
        return self.driver.execute_script(  # type: ignore[no-any-return]
            """
            return [...document.querySelectorAll(`${arguments[0]}, ${arguments[0]} *`)]
                .filter(e => ['auto', 'scroll'].includes(getComputedStyle(e).overflowX))
                .filter(e => e.offsetParent && e.scrollWidth > e.clientWidth)
                .map(e => `${e.className}: ${e.scrollWidth} in ${e.clientWidth}`)
            """,
            selector,
        )

    def click(self, selector: str, text: str) -> None:
        """Click the element with that text, when it can be seen and is not disabled."""
        self.until(
            f"""
            const wanted = {text!r}.toLowerCase();
            const found = [...document.querySelectorAll({selector!r})].find(
                e => e.textContent.trim().toLowerCase() === wanted && e.offsetParent && !e.disabled);
            if (found) found.click();
            return !!found
            """
        )

    def tab(self, name: str) -> None:
        """Choose a tab of the view, which listens to the mouse and not to a click."""
        from selenium.webdriver.common.by import By

        tabs = self.driver.find_elements(By.CSS_SELECTOR, ".jp-OutputArea .widget-tab [role=tab]")
        next(tab for tab in tabs if tab.text.strip() == name).click()

    def press(self, selector: str) -> None:
        """Click the one element of that kind, when it is there."""
        self.until(f"const e = document.querySelector({selector!r}); if (e) e.click(); return !!e")

    def enter(self, selector: str, value: object) -> None:
        """Type a value into a field."""
        from selenium.webdriver.common.by import By
        from selenium.webdriver.common.keys import Keys

        field = next(e for e in self.driver.find_elements(By.CSS_SELECTOR, selector) if e.is_displayed())
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(str(value), Keys.TAB)

    def fits(self, selector: str) -> None:
        """Wait until nothing in an element is too wide."""
        wait_until(lambda: not self.scrolled(selector), timeout=30, what=lambda: f"{self.scrolled(selector)} fit")

    def looks(self, name: str, selector: str) -> None:
        """Keep pictures narrow and wide, light and dark; in none of them something is too wide."""
        self.driver.execute_script("jupyterapp.shell.collapseLeft(); jupyterapp.shell.collapseRight()")
        change = "jupyterapp.commands.execute('apputils:change-theme', {theme: arguments[0]})"
        for width in (480, 1280):
            self.driver.set_window_size(width, 1300)
            for theme in ("Dark", "Light"):
                self.driver.execute_async_script(
                    f"const done = arguments[1]; {change}.then(() => setTimeout(done, 700))", f"JupyterLab {theme}"
                )
                self.fits(selector)
                self.picture(f"{name}-{width}-{theme.lower()}", selector, keep=False)
        self.picture(name, selector)

    def picture(self, name: str, selector: str | None = None, *, keep: bool = True) -> None:
        """Keep a picture of an element or of the whole page, for the docs where they are being made anew."""
        from selenium.webdriver.common.by import By

        wanted = "BROWSER_TESTS_PICTURES" if keep else "BROWSER_TESTS_ALL_PICTURES"
        path = str(Path(os.environ.get(wanted, self.directory)) / f"{name}.png")
        element = self.driver.find_element(By.CSS_SELECTOR, selector) if selector else None
        assert element.screenshot(path) if element else self.driver.save_screenshot(path)


@pytest.fixture(scope="session")
def jupyter(system: LocalSystem, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Path]]:
    """A JupyterLab server with dask-labextension, as a user of the system would run it."""
    directory = tmp_path_factory.mktemp("jupyter")
    (directory / "dask").mkdir()
    (directory / "dask/labextension.yaml").write_text(yaml.safe_dump(LABEXTENSION))
    (directory / "work").mkdir()
    news = directory / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    token, (port,) = secrets.token_hex(16), free_ports(1)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += [f"--IdentityProvider.token={token}", "--allow-root", "--expose-app-in-browser"]
    command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={directory / 'work'}"]
    command += ["--LabApp.extension_manager=readonly"]  # the other one asks a host outside
    environment = {
        **os.environ,
        **system.environ,
        "DASK_CONFIG": str(directory / "dask"),
        "JUPYTER_CONFIG_DIR": str(directory / "config"),
        "JUPYTER_DATA_DIR": str(directory / "data"),
        "JUPYTER_RUNTIME_DIR": str(directory / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(directory / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(directory / "workspaces"),
    }
    address = f"http://127.0.0.1:{port}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def up() -> bool:
        assert process.poll() is None, (directory / "log").read_text()[-3000:]
        try:
            return bool(opener.open(f"{address}/api?token={token}", timeout=5).status == 200)
        except (urllib.error.URLError, OSError):
            return False

    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=directory / "work")
    try:
        wait_until(up, what="JupyterLab answers")
        yield address, token, directory
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium that talks to this machine alone."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-proxy-server",
        "--window-size=1100,1300",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(argument)
    service = webdriver.ChromeService(os.environ.get("CHROMEDRIVER", "/usr/bin/chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(90)
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def lab(jupyter: tuple[str, str, Path], browser: Any) -> Lab:
    """A JupyterLab in a browser."""
    address, token, directory = jupyter
    return Lab(address, token, directory, browser)


@pytest.fixture
def notebook(lab: Lab) -> Callable[..., Lab]:
    """A maker of notebooks: the code of each cell."""

    def make(name: str, *cells: str) -> Lab:
        import nbformat

        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, lab.directory / "work" / f"{name}.ipynb")
        lab.driver.set_window_size(1100, 1300)  # a test before may have failed in a narrow one
        lab.open(f"/tree/{name}.ipynb")
        # JupyterLab may ask first which kernel to take.
        lab.until(
            """
            const accept = document.querySelector('.jp-Dialog .jp-mod-accept');
            if (accept) accept.click();
            const kernel = jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel;
            return !accept && kernel?.status === 'idle' && !!document.querySelector('.jp-Notebook .jp-Cell')
            """
        )
        return lab

    return make
