"""Faults that a test can cause between a server and its client.

A `Fault` says which requests are answered wrongly, how often, and how. `send` writes an answer with its fault.
"""

from __future__ import annotations

import dataclasses
import http
import http.server
import re
import select
import socket
import struct
from collections.abc import Mapping

PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in to this network.</body></html>"
KINDS = ("status", "html", "same_size_corruption", "truncate", "reset", "stall", "drip", "pause")
_NEED_A_BODY = ("same_size_corruption", "truncate", "drip", "pause")


@dataclasses.dataclass
class Answer:
    """An answer to a request.

    Attributes:
        status: The HTTP status.
        headers: The headers, without Content-Length.
        body: The whole file, or a part of it.
        start: The position in the file where the body starts.
    """

    status: int
    headers: dict[str, str]
    body: bytes = b""
    start: int = 0


@dataclasses.dataclass
class Fault:
    """One way in which answers are wrong. If several faults match a request, only the first one is used.

    Attributes:
        match: A regular expression that is searched in "METHOD path?query". `^GET .*name` leaves out the HEAD request
            that comes before a GET request.
        times: How often the fault will still happen, None for always. Faults of a body do not happen, and are not
            counted, for answers without a body.
        kind: One of KINDS. With "status" the request has no effect; with all others it has its effect, and only the
            answer is wrong.

            * status: the answer is `status` with `headers` and `body`.
            * html: the answer is a web page with status 200; `keep_headers` keeps the headers of the right answer.
            * same_size_corruption: the byte of the file at `offset` is changed (negative: from the end of the body).
            * truncate, reset, stall: after `after` bytes of the body (None: before the headers) the server closes the
              connection, resets it, or sends nothing until the client leaves or the server stops.
            * drip, pause: the server waits `seconds` before each `size` bytes (by default 1 byte, and 64 KiB).
    """

    match: str
    times: int | None
    kind: str
    _: dataclasses.KW_ONLY
    status: int = 503
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""
    keep_headers: bool = False
    offset: int = 0
    after: int | None = 0
    seconds: float = 0.1
    size: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no fault is called {self.kind!r}: choose among {', '.join(KINDS)}")
        re.compile(self.match)

    def strikes(self, request: str, answer: Answer | None) -> bool:
        """Say whether the fault happens for a request "METHOD path?query", and count it if it does.

        The server asks twice: before it has an answer (None), and with the answer.
        """
        if (self.kind == "status") != (answer is None) or self.times == 0 or not re.search(self.match, request):
            return False
        if self.kind in _NEED_A_BODY and answer is not None and (request.startswith("HEAD ") or not answer.body):
            return False
        if self.times is not None:
            self.times -= 1
        return True

    def spoil(self, answer: Answer) -> Answer:
        """Return the answer with another content, for the kinds that change the content."""
        if self.kind == "html":
            headers = {name: value for name, value in answer.headers.items() if name != "Location"}
            headers = headers if self.keep_headers else {}
            return Answer(200, {**headers, "Content-Type": "text/html; charset=utf-8"}, PAGE)
        if self.kind == "same_size_corruption":
            at = self.offset - answer.start if self.offset >= 0 else len(answer.body) + self.offset
            if 0 <= at < len(answer.body):
                body = bytearray(answer.body)
                body[at] ^= 0xFF
                return dataclasses.replace(answer, body=bytes(body))
        return answer


def send(handler: http.server.BaseHTTPRequestHandler, answer: Answer, fault: Fault | None) -> None:
    """Write the answer with its fault."""
    answer = fault.spoil(answer) if fault else answer
    kind = fault.kind if fault else ""
    body = b"" if handler.command == "HEAD" else answer.body
    broken = fault is not None and kind in ("truncate", "reset", "stall")
    if fault and broken and fault.after is None:
        handler.log_request(0)
    else:
        handler.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if fault and broken:
            body = body[: fault.after]
        if fault and kind in ("drip", "pause"):
            size = fault.size or (1 if kind == "drip" else 2**16)
            for at in range(0, len(body), size):
                _wait(handler.connection, fault.seconds)
                handler.wfile.write(body[at : at + size])
        else:
            handler.wfile.write(body)
    if broken:
        handler.close_connection = True
    if kind == "stall":
        _wait(handler.connection, None)
    if kind == "reset":
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.close(
            handler.connection.detach()
        )  # close at once: an orderly shutdown would mean that everything was sent


def _wait(connection: socket.socket, seconds: float | None) -> None:
    """Wait for some seconds, or for ever.

    The client sends nothing meanwhile. So if the connection is readable, the client has left or the server stops.
    """
    if select.select([connection], [], [], seconds)[0]:
        raise ConnectionAbortedError
