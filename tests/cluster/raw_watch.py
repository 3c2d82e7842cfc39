"""A Watch stream on a bare socket: one that can be left alone, a thousand of them in one process.

No thread and no library reads it, so nothing is taken from the server but what the test takes. Only what a
watch needs of HTTP/2 (RFC 9113) is here; headers are sent uncoded (RFC 7541 section 6.2.2) and those that
come are not looked at.
"""

import socket
import struct

from harness import Failure
from watch_stream import Response, create_request

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_HEADERS, ACK = 4, 1
INITIAL_WINDOW_SIZE = 4
STREAM = 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def header(name, value):
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


HEADER_BLOCK = b"".join(header(n, v) for n, v in [
    (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/etcdserverpb.Watch/Watch"),
    (b":authority", b"stalled"), (b"content-type", b"application/grpc"), (b"te", b"trailers")])


class RawWatch:
    """Opens the stream and asks for a watcher; `window`: bytes the server may send unasked."""

    def __init__(self, member, window, timeout_s=120, **kw):
        self.socket = socket.create_connection(("127.0.0.1", member.client_port), timeout_s)
        self.rest = b""      # of a frame
        self.message = bytearray()  # of a gRPC message
        self.wanted = 5             # so much of it before it is worth a look
        self.messages = []   # read and not asked for
        self._send(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, window))
                   + frame(HEADERS, END_HEADERS, STREAM, HEADER_BLOCK))
        self.create(**kw)

    def _send(self, data):
        self.socket.sendall(data)

    def create(self, **kw):
        request = create_request(**kw)
        self._send(frame(DATA, 0, STREAM, b"\0" + struct.pack(">I", len(request)) + request))

    def open_window(self, count):
        """The server may send so many bytes more."""
        grant = struct.pack(">I", count)
        self._send(frame(WINDOW_UPDATE, 0, 0, grant) + frame(WINDOW_UPDATE, 0, STREAM, grant))

    def _frame(self):
        while len(self.rest) < 9 or len(self.rest) < 9 + int.from_bytes(self.rest[:3], "big"):
            try:
                data = self.socket.recv(1 << 20)
            except socket.timeout:
                raise Failure("nothing came from the server") from None
            if not data:
                raise Failure("the server closed the connection")
            self.rest += data
        size = int.from_bytes(self.rest[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", self.rest[3:9])
        payload, self.rest = self.rest[9:9 + size], self.rest[9 + size:]
        return kind, flags, stream, payload

    def _take(self, data):
        self.message += data
        if len(self.message) < self.wanted:
            return
        while len(self.message) >= 5:
            size = int.from_bytes(self.message[1:5], "big")
            self.wanted = 5 + size
            if len(self.message) < self.wanted:
                return
            self.messages.append(bytes(self.message[5:5 + size]))
            del self.message[:5 + size]
        self.wanted = 5

    def next(self):
        return Response(self.next_bytes())

    def next_bytes(self):
        while not self.messages:
            kind, flags, stream, payload = self._frame()
            if kind == SETTINGS and not flags & ACK:
                self._send(frame(SETTINGS, ACK, 0, b""))
            elif kind == PING and not flags & ACK:
                self._send(frame(PING, ACK, 0, payload))
            elif kind in (RST_STREAM, GOAWAY):
                raise Failure(f"frame {kind}: {payload!r}")
            elif kind == DATA and stream == STREAM:
                self._take(payload)
        return self.messages.pop(0)

    def close(self):
        self.socket.close()
