"""A Hugging Face Hub on loopback for the real client of both major versions, which can be made to fail."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import traceback
from types import TracebackType
from typing import Any, NamedTuple

from hub_api import Hub
from hub_faults import Answer, Fault, send


class Asked(NamedTuple):
    """One request; path has the query, status is 0 where nothing was answered."""

    method: str
    path: str
    status: int


class HubServer(Hub):
    """A Hub that serves at `url` while it is a context, and LFS objects at `cdn_url`.

    faults: rules of hub_faults.Fault, to change at any time. requests: what was asked, in the order of the answers.
    """

    def __init__(self, *, lfs_above: int = 10 * 2**20) -> None:
        super().__init__(lfs_above=lfs_above)
        self.faults: list[Fault] = []
        self.requests: list[Asked] = []
        self.bugs: list[str] = []

    def __enter__(self) -> HubServer:
        self._servers = [_Server(self), _Server(self)]
        self.url, self.cdn_url = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)
        self._threads = [threading.Thread(target=server.serve_forever, args=(0.05,)) for server in self._servers]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for server in self._servers:
            server.shutdown()
            server.hang_up()
            server.server_close()
        for thread in self._threads:
            thread.join()
        if self.bugs:
            raise AssertionError("the Hub on loopback has a bug:\n" + "\n".join(self.bugs))

    def count(self, method: str, contains: str) -> int:
        """How many requests of this method had this in their path or query."""
        return sum(asked.method == method and contains in asked.path for asked in list(self.requests))

    def fault(self, request: str, answer: Answer | None) -> Fault | None:
        with self.lock:
            return next((fault for fault in self.faults if fault.strikes(request, answer)), None)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # so that closing joins them
    request_queue_size = 64

    def __init__(self, hub: HubServer) -> None:
        self.hub = hub
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        with self.hub.lock:
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        with self.hub.lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End the connections, which wakes the threads that wait on them."""
        with self.hub.lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """An answer failed by a mistake in these files: said when the server stops."""
        self.hub.bugs.append(traceback.format_exc())


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client that leaves, or is made to
            super().handle()

    def do_GET(self) -> None:
        hub, asked = self.server.hub, f"{self.command} {self.path}"
        body = self._read()
        fault = hub.fault(asked, None)
        if fault:
            answer = Answer(fault.status, dict(fault.headers), fault.body)
        else:
            answer = hub.answer(self.command, self.path, self.headers, body)
            fault = hub.fault(asked, answer)
        send(self, answer, fault)

    do_HEAD = do_POST = do_PUT = do_GET

    def _read(self) -> bytes:
        """The request's body: of a known length, or in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self._exactly(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self._exactly(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _exactly(self, size: int) -> bytes:
        content = self.rfile.read(size)
        if len(content) < size:
            raise ConnectionAbortedError
        return content

    def log_request(self, code: Any = "-", size: object = "-") -> None:
        self.server.hub.requests.append(Asked(self.command, self.path, int(code)))

    def log_message(self, *args: object) -> None:
        """Nothing on stderr."""
