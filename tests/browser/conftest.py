"""Chromium without a network: pages from disk or a local server; whatever goes wrong on a page is written down."""

import functools
import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator:
    sync_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("no chromium on the path (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


class _QuietServer(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """The test's output is no access log."""


@pytest.fixture(scope="session")
def served() -> Callable[[Path], AbstractContextManager[str]]:
    """served(folder): a context with the address of a server of that folder on this machine."""

    @contextmanager
    def serve(folder: Path) -> Iterator[str]:
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_QuietServer, directory=folder)) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()

    return serve


@pytest.fixture(scope="session")
def opened(browser) -> Callable[..., SimpleNamespace]:
    """opened(url, home): a page, and the troubles it has had: requests to elsewhere (blocked), failed ones, console errors."""

    def open_page(url: str, home: str, width: int = 1200, **options) -> SimpleNamespace:
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        troubles: list[str] = []

        def gate(route) -> None:
            if route.request.url.startswith((home, "data:", "blob:")):
                return route.continue_()
            troubles.append(f"outside: {route.request.url}")
            return route.abort()

        page.route("**/*", gate)
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("requestfailed", lambda request: troubles.append(f"failed: {request.url}"))
        page.on("response", lambda answer: troubles.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None)
        page.goto(url)
        return SimpleNamespace(page=page, troubles=troubles)

    return open_page
