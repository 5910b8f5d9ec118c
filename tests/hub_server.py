"""A Hugging Face Hub on this machine, for the real client of both major versions. Its answers can be made to fail."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import traceback
from types import TracebackType
from typing import Any, NamedTuple

from hub_api import HubFile
from hub_faults import Answer, Fault, send


class Request(NamedTuple):
    """One request that the server got. `path` includes the query; `status` is 0 if nothing was answered."""

    method: str
    path: str
    status: int


class HubServer(HubFile):
    """A Hub that runs at `url` until its `with` block ends. LFS objects are at `cdn_url`.

    Attributes:
        faults: The faults of its answers, which may be changed at any time.
        requests: All requests, in the order of their answers.
        bugs: Tracebacks of errors in the test server itself.
    """

    def __init__(self, *, lfs_above: int = 10 * 2**20) -> None:
        super().__init__(lfs_above=lfs_above)
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
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
            raise AssertionError("the Hub of the tests has a bug:\n" + "\n".join(self.bugs))

    def count(self, method: str, contains: str) -> int:
        """Count the requests of this method that had this text in their path or query."""
        return sum(request.method == method and contains in request.path for request in list(self.requests))

    def fail_next(self, times: int, match: str, kind: str, **details: Any) -> None:
        """Make the next answers to matching requests wrong. The arguments are those of `Fault`."""
        self.faults.append(Fault(match, times, kind, **details))

    def fail_always(self, match: str, kind: str, **details: Any) -> None:
        """Make all answers to matching requests wrong, until `stop_failing`. The arguments are those of `Fault`."""
        self.faults.append(Fault(match, None, kind, **details))

    def stop_failing(self) -> None:
        """Make all answers right again."""
        self.faults.clear()

    def fault_for(self, request: str, answer: Answer | None) -> Fault | None:
        """Return the fault that happens for a request, see `Fault.strikes`."""
        with self.lock:
            return next((fault for fault in self.faults if fault.strikes(request, answer)), None)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them
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
        """End all connections, which wakes the threads that wait for them."""
        with self.hub.lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Remember an error of the test server itself. It is raised when the server stops."""
        self.hub.bugs.append(traceback.format_exc())


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client has left, or a fault has ended the connection
            super().handle()

    def do_GET(self) -> None:
        hub, request = self.server.hub, f"{self.command} {self.path}"
        body = self._read()
        fault = hub.fault_for(request, None)
        if fault:
            answer = Answer(fault.status, dict(fault.headers), fault.body)
        else:
            answer = hub.answer(self.command, self.path, self.headers, body)
            fault = hub.fault_for(request, answer)
        send(self, answer, fault)

    do_HEAD = do_POST = do_PUT = do_GET

    def _read(self) -> bytes:
        """Read the request's body, which has a known length or comes in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self._read_exactly(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self._read_exactly(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _read_exactly(self, size: int) -> bytes:
        content = self.rfile.read(size)
        if len(content) < size:
            raise ConnectionAbortedError
        return content

    def log_request(self, code: Any = "-", size: object = "-") -> None:
        self.server.hub.requests.append(Request(self.command, self.path, int(code)))

    def log_message(self, *args: object) -> None:
        """Nothing on stderr."""
