"""A request stays with the address that it names."""

from __future__ import annotations

import http.server
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from climb_model.checking.machine import check_clock
from climb_model.no_redirect import NoRedirect


class Server(http.server.HTTPServer):
    """Sends all who ask for `/health` elsewhere, and notes what was asked for."""

    asked: list[str]

    def __init__(self, code: int) -> None:
        asked = self.asked = list[str]()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(code if self.path == "/health" else 200)
                self.send_header("Location", "/pacs/delete?all=1")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture(params=[301, 302, 303, 307, 308])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(request.param) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def test_nobody_else_is_asked(server: Server) -> None:
    address = f"http://127.0.0.1:{server.server_port}/health"
    with pytest.raises(urllib.error.HTTPError) as told:
        urllib.request.build_opener(NoRedirect).open(address, timeout=5)
    told.value.close()
    assert 300 < told.value.code < 400
    assert check_clock(address) == []  # an answer of any kind tells the time
    assert server.asked == ["/health", "/health"]
