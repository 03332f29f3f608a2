"""A browser, and a server that lets one other origin in."""

import http.server
import sys
import threading
from pathlib import Path

import pytest
from chromium import Browser

sys.path.insert(0, str(Path(__file__).parent.parent / "python"))
from serving import serving  # noqa: E402


class Blank(http.server.BaseHTTPRequestHandler):
    """An empty page at every path."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def elsewhere():
    """The port of another site on this machine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Blank) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield site.server_port
        site.shutdown()


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def server(home, elsewhere):
    origin = f"http://127.0.0.1:{elsewhere}"
    # Nothing sleeps again while the tests run, so that only the first message finds it asleep.
    with serving(home, "demo", "--cors-origins", origin, "--idle-timeout", "1h") as server:
        yield server


@pytest.fixture
def open_page(browser):
    """Opens the chat page of a server; at the end, nothing unexpected was said or asked."""
    opened = []

    def open_page(server, errors=()):
        page = browser.open(f"{server.url}/")
        page.size(1100, 800)
        page.until("$('model').options.length === 1")
        opened.append((page, server, list(errors)))
        return page

    yield open_page
    for page, server, errors in opened:
        assert page.errors() == errors
        assert all(url.startswith((f"{server.url}/", "data:")) for url in page.requested())
        page.close()
