"""An HTTP proxy for tests that stands before an S3 server and makes the weather that a fault function orders."""

import http.client
import itertools
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

FAULTS = ("500", "503", "reset", "lost answer", "short answer", "silence")


@dataclass
class Weather:
    """``fault(method, number)`` names what befalls a request: one of FAULTS, "flip up", "flip down", or None.

    "500", "503" and "reset" never reach the server, "lost answer" and "short answer" do; "silence" answers nothing.
    """

    upstream: str
    fault: Callable[[str, int], str | None] = lambda method, number: None
    endpoint: str = ""
    requests: list[str] = field(default_factory=list)
    answered: int = 0  # bytes of all bodies that went down
    numbers: Iterator[int] = field(default_factory=itertools.count)
    closing: threading.Event = field(default_factory=threading.Event)

    def next_fault(self, method: str) -> str | None:
        self.requests.append(method)
        return self.fault(method, next(self.numbers))


class _Connection(socketserver.StreamRequestHandler):
    server: "_Proxy"

    def handle(self) -> None:
        while self._one_request():
            pass

    def _one_request(self) -> bool:
        head = self._head()
        if not head:
            return False
        lines = head.split(b"\r\n")
        length = int(next((line.split(b":")[1] for line in lines if line.lower().startswith(b"content-length:")), 0))
        if any(line.lower().startswith(b"expect:") for line in lines):
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = b"\r\n".join(line for line in lines if not line.lower().startswith(b"expect:"))
        body = self.rfile.read(length)
        method = head.split()[0].decode()
        weather = self.server.weather
        fault = weather.next_fault(method)
        if fault in ("500", "503"):
            self.wfile.write(b"HTTP/1.1 %s Bad Weather\r\nContent-Length: 0\r\n\r\n" % fault.encode())
            return True
        if fault == "reset":
            return self._reset()
        if fault == "silence":
            weather.closing.wait(30)
            return False
        if fault == "flip up" and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        answer_head, answer = _ask(weather.upstream, method, head + body)
        weather.answered += len(answer)
        if fault == "lost answer":
            return self._reset()
        if fault == "flip down" and answer:
            answer = answer[:-1] + bytes([answer[-1] ^ 1])
        if fault == "short answer" and answer:
            self.wfile.write(answer_head + answer[: len(answer) // 2])
            return self._reset()
        self.wfile.write(answer_head + answer)
        return True

    def _head(self) -> bytes:
        lines = []
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            lines.append(line)
        return b"".join([*lines, b"\r\n"]) if lines else b""

    def _reset(self) -> bool:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        return False

    def finish(self) -> None:
        try:
            super().finish()
        except OSError:
            return  # the client went first


class _Proxy(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    weather: Weather

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the weather."""


def _ask(upstream: str, method: str, request: bytes) -> tuple[bytes, bytes]:
    place = urlsplit(upstream)
    with socket.create_connection((place.hostname, place.port), timeout=60) as server:
        server.sendall(request)
        response = http.client.HTTPResponse(server, method=method)
        response.begin()
        answer = response.read()
    size = response.headers["Content-Length"] if method == "HEAD" else str(len(answer))
    skipped = ("content-length", "transfer-encoding", "connection")
    lines = [f"{name}: {value}" for name, value in response.getheaders() if name.lower() not in skipped]
    lines = [f"HTTP/1.1 {response.status} {response.reason}", *lines, f"Content-Length: {size or 0}", "", ""]
    return "\r\n".join(lines).encode("latin-1"), answer


@contextmanager
def weather_before(upstream: str) -> Iterator[Weather]:
    """Run a proxy before a server; set ``fault`` on what it gives, and point clients to its ``endpoint``."""
    weather = Weather(upstream)
    with _Proxy(("127.0.0.1", 0), _Connection) as proxy:
        proxy.weather = weather
        weather.endpoint = f"http://127.0.0.1:{proxy.server_address[1]}"
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield weather
        finally:
            weather.closing.set()
            proxy.shutdown()
            thread.join()
