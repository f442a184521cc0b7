"""An S3 server for tests: moto's, on 127.0.0.1, with faults on demand; started by the fixture ``s3``.

moto looks whether an object is there and then writes it, without a lock in between. S3 promises that of
several conditional writes one succeeds; so conditional writes are let through one at a time here.

``POST /_faults`` replaces the list of faults, each a mapping: ``method``, ``key`` (a regular expression
for the path), ``kind``, ``times`` (how often; absent: always), ``skip`` (matching requests to spare first).
Kinds: ``500``, ``503``, ``403``, ``404``..., an answer with that status; ``drop``, the connection ends
before anything is done; ``lost``, it ends after the request was carried out; ``torn``, the body ends in the
middle; ``slow``, the answer comes ``seconds`` late; ``unconditional``, the condition is ignored, as by stores
that do not know it. ``GET /_seen`` returns the requests since the faults were set.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

Environ = dict[str, Any]
CODES = {"503": "SlowDown", "500": "InternalError", "403": "AccessDenied", "501": "NotImplemented"}


class Faults:
    """The WSGI application around moto's."""

    def __init__(self) -> None:
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.conditional = threading.Lock()
        self.lock = threading.Lock()
        self.faults: list[dict[str, Any]] = []
        self.seen: list[str] = []

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path == "/_faults":
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            with self.lock:
                self.faults, self.seen = json.loads(body), []
            return self.answer(start_response, "200 OK", b"{}")
        if path == "/_seen":
            return self.answer(start_response, "200 OK", json.dumps(self.seen).encode())
        fault = self.due(method, path, environ.get("QUERY_STRING", ""))
        kind = str(fault["kind"]) if fault else ""
        if kind == "slow":
            time.sleep(fault["seconds"])
        if kind == "unconditional":
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if kind == "drop":
            return self.hang_up(environ)
        if kind.isdigit():
            code = fault.get("code") or CODES.get(kind, "Strange")
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
            return self.answer(start_response, f"{kind} Fault", text.encode())
        status, headers, body = self.carry_out(environ)
        if kind == "lost":
            return self.hang_up(environ)
        start_response(status, headers)
        if kind == "torn":
            environ["werkzeug.socket"].settimeout(10)
            return self.cut(environ, body)
        return [body]

    def due(self, method: str, path: str, query: str) -> dict[str, Any]:
        with self.lock:
            self.seen.append(f"{method} {path}" + (f"?{query}" if query else ""))
            for fault in self.faults:
                if fault.get("method", method) == method and re.search(fault.get("key", ""), path):
                    if fault.get("skip", 0) > 0:
                        fault["skip"] -= 1
                    elif fault.get("times", 1) > 0:  # absent: always
                        fault["times"] = fault.get("times", float("inf")) - 1
                        return fault
        return {}

    def carry_out(self, environ: Environ) -> tuple[str, list[tuple[str, str]], bytes]:
        """Ask moto; keep the whole answer."""
        kept: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], error: Any = None) -> None:
            kept[:] = [status, headers]

        def ask() -> bytes:
            answer = self.moto(environ, start)
            return b"".join(answer)

        if "HTTP_IF_NONE_MATCH" in environ:
            with self.conditional:
                body = ask()
        else:
            body = ask()
        return kept[0], kept[1], body

    @staticmethod
    def answer(start_response: Callable[..., Any], status: str, body: bytes) -> list[bytes]:
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]

    @staticmethod
    def hang_up(environ: Environ) -> Iterable[bytes]:
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError

    @classmethod
    def cut(cls, environ: Environ, body: bytes) -> Iterable[bytes]:
        yield body[: len(body) // 2]
        cls.hang_up(environ)


class Handler(WSGIRequestHandler):
    """Keeps connections open, as S3 does."""

    protocol_version = "HTTP/1.1"


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    where = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"
    server = make_server(where, 0, Faults(), threaded=True, request_handler=Handler)
    print(server.port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()  # ends with the process that started this one


if __name__ == "__main__":
    main()
