"""What goes wrong between a server and its client, struck on purpose: rules, and answers sent as a rule says."""

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
    """What to send; body starts at byte `start` of the file it is a part of."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    start: int = 0


@dataclasses.dataclass
class Fault:
    """One way for answers to go wrong. Of the rules that match a request, the first alone strikes.

    match: a regular expression found in "METHOD path?query"; `^GET .*name` spares the HEAD that precedes a GET.
    times: how often it still strikes, None for ever. Kinds that spoil a body leave answers without one alone.
    kind: one of KINDS:
      status: `status` with `headers` and `body`, and the request has no effect. The other kinds spoil the answer to
        a request that had its effect.
      html: a page for people with status 200; with `keep_headers` under the headers of what it replaces.
      same_size_corruption: one byte of the file is flipped, at `offset` (negative: from the end of what is sent).
      truncate, reset, stall: after `after` bytes of the body (None: before the headers) the connection is closed, is
        reset, or falls silent until the client leaves or the server stops.
      drip, pause: `seconds` pass before each `size` bytes (by default 1, and 64 KiB).
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
        """Whether it strikes "METHOD path?query", before (None) or after the answer is known; it counts that."""
        if (self.kind == "status") != (answer is None) or self.times == 0 or not re.search(self.match, request):
            return False
        if self.kind in _NEED_A_BODY and answer is not None and (request.startswith("HEAD ") or not answer.body):
            return False
        if self.times is not None:
            self.times -= 1
        return True

    def spoil(self, answer: Answer) -> Answer:
        """The answer with another content, for the kinds that replace it."""
        if self.kind == "html":
            kept = {name: value for name, value in answer.headers.items() if self.keep_headers and name != "Location"}
            return Answer(200, {**kept, "Content-Type": "text/html; charset=utf-8"}, PAGE)
        if self.kind == "same_size_corruption":
            at = self.offset - answer.start if self.offset >= 0 else len(answer.body) + self.offset
            if 0 <= at < len(answer.body):
                body = bytearray(answer.body)
                body[at] ^= 0xFF
                return dataclasses.replace(answer, body=bytes(body))
        return answer


def send(handler: http.server.BaseHTTPRequestHandler, answer: Answer, fault: Fault | None) -> None:
    """Write the answer as the fault has it."""
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
        socket.close(handler.connection.detach())  # at once: an orderly shutdown first would say that all is sent


def _wait(connection: socket.socket, seconds: float | None) -> None:
    """Let time pass. A client has nothing to say meanwhile: readable means it left, or that the server stops."""
    if select.select([connection], [], [], seconds)[0]:
        raise ConnectionAbortedError
