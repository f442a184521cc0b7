"""A proxy before a real MLflow server that does to requests what networks and servers do."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = Callable[["Request"], None]
Script = Callable[[int, str], "Fault | None"]


class Request:
    """One request on its way; a fault answers it, passes it on, or does neither."""

    def __init__(self, handler: BaseHTTPRequestHandler, port: int, gone: threading.Event) -> None:
        self.handler, self.port, self.gone = handler, port, gone
        self.body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))

    def forward(self) -> tuple[int, str, bytes]:
        """Let the server do what is asked; return its status, type and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        headers = {name: value for name, value in self.handler.headers.items() if name.lower() != "host"}
        try:
            connection.request(self.handler.command, self.handler.path, self.body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers.get("Content-Type", "application/json"), answer.read()
        finally:
            connection.close()

    def answer(self, status: int, kind: str, body: bytes, length: int | None = None, **headers: str) -> None:
        self.handler.send_response(status)
        self.handler.send_header("Content-Type", kind)
        self.handler.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.end_headers()
        self.handler.wfile.write(body)

    def hang_up(self) -> None:
        self.handler.wfile.flush()
        self.handler.connection.shutdown(socket.SHUT_RDWR)
        self.handler.close_connection = True


def status(code: int, **headers: str) -> Fault:
    """Answer with a status and a text, without asking the server."""
    return lambda request: request.answer(code, "text/plain", f"fault {code}".encode(), **headers)


def html(request: Request) -> None:
    """Answer with somebody else's page, as a captive portal does."""
    request.answer(200, "text/html", b"<html><body>Please log in</body></html>")


def done_then_error(request: Request) -> None:
    """Do what is asked, then answer 500."""
    request.forward()
    request.answer(500, "text/plain", b"after the fact")


def done_then_silence(request: Request) -> None:
    """Do what is asked, then close without an answer."""
    request.forward()
    request.hang_up()


def cut_off(request: Request) -> None:
    """Do what is asked, then close in the middle of the answer."""
    code, kind, body = request.forward()
    request.answer(code, kind, body[: len(body) // 2], len(body) + 10)
    request.hang_up()


def hang(request: Request) -> None:
    """Do what is asked and keep quiet for two minutes."""
    request.forward()
    request.gone.wait(120)
    request.hang_up()


def hang_first(request: Request) -> None:
    """Keep quiet for two minutes and do nothing."""
    request.gone.wait(120)
    request.hang_up()


def slowly(seconds: float) -> Fault:
    """Do what is asked, and answer late."""

    def fault(request: Request) -> None:
        found = request.forward()
        time.sleep(seconds)
        request.answer(*found)

    return fault


class Proxy:
    """What a test sees of the proxy.

    Attributes:
        uri: Where it listens.
        script: Says by number and path which fault a request meets; ``None`` passes it on.
        asked: The requests so far, as method and path.
    """

    def __init__(self, port: int, target: int) -> None:
        self.uri = f"http://127.0.0.1:{port}"
        self.target = target
        self.script: Script = lambda number, path: None
        self.asked: list[str] = []
        self.lock = threading.Lock()
        self.gone = threading.Event()


@contextmanager
def proxy_before(target: int) -> Iterator[Proxy]:
    """Serve a proxy before the server on port ``target``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            path = self.path.partition("?")[0]
            with proxy.lock:
                number = len(proxy.asked)
                proxy.asked.append(f"{self.command} {path}")
            try:
                request = Request(self, proxy.target, proxy.gone)
                fault = proxy.script(number, path)
                if fault:
                    fault(request)
                else:
                    request.answer(*request.forward())
            except OSError:
                self.close_connection = True  # the client, or the server, is gone

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass

        def log_message(self, *_: Any) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: Any) -> None:
            return

    server = Server(("127.0.0.1", 0), Handler)
    proxy = Proxy(server.server_address[1], target)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.gone.set()
        server.shutdown()
        server.server_close()
        thread.join()
