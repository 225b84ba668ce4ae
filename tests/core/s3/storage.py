"""A server that is asked for a listing, says whatever a test wants, and keeps what it was asked."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.services.ports import LOOPBACK

Answer = Callable[[BaseHTTPRequestHandler], None]


class Storage(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answer: Answer) -> None:
        super().__init__((LOOPBACK, 0), _Handler)
        self.answer = answer
        self.asked: list[tuple[str, dict[str, str]]] = []

    @property
    def endpoint(self) -> str:
        return f"http://{LOOPBACK}:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who is asked hangs up in the middle of an endless answer."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Storage)
        self.server.asked.append((self.path, dict(self.headers)))
        self.server.answer(self)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        pass


@contextlib.contextmanager
def storage(answer: Answer) -> Iterator[Storage]:
    server = Storage(answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def says(body: bytes, status: int = 200, **headers: str) -> Answer:
    """An answer as a whole."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def says_without_end(chunk: bytes, pause: float) -> Answer:
    """Pieces of an answer, for as long as somebody listens."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(chunk)
                time.sleep(pause)

    return answer


def listing(inner: str) -> bytes:
    return (
        '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>b</Name><KeyCount>1</KeyCount>{inner}</ListBucketResult>"
    ).encode()
