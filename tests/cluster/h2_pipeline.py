"""Many gRPC calls in little time: HTTP/2 frames of our own making on one connection.

grpcio needs a third of a millisecond for a call; a test that wants 100,000 of them has no time for that.
Headers are literals without indexing, the same bytes for each call. What the server sends in headers is
not decoded: a call that was answered with a message has succeeded, any other has not.
"""

import socket

from harness import Failure

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 1
END_HEADERS = 4
SETTING_MAX_STREAMS = 3
WINDOW = 65535  # of a connection at its begin, RFC 9113 6.9.2
IN_FLIGHT = 200


def _frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _header_block(authority, path):
    out = b""
    for name, value in ((":method", "POST"), (":scheme", "http"), (":path", path),
                        (":authority", authority), ("content-type", "application/grpc"),
                        ("te", "trailers")):
        assert len(name) < 127 and len(value) < 127
        out += b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
    return out


class Pipeline:
    def __init__(self, member, timeout_s=60):
        host, port = member.address.rsplit(":", 1)
        self.authority = member.address
        self.sock = socket.create_connection((host, int(port)), timeout=timeout_s)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.next_stream = 1
        self.window = WINDOW
        self.in_flight_max = IN_FLIGHT
        self.rest = bytearray()
        self.calls = {}  # stream -> position of its request
        self.answered = None
        self.out = bytearray(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(SETTINGS, 0, 0) +
                             _frame(WINDOW_UPDATE, 0, 0, (0x7FFF0000).to_bytes(4, "big")))

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _on_settings(self, payload):
        for i in range(0, len(payload), 6):
            if int.from_bytes(payload[i:i + 2], "big") == SETTING_MAX_STREAMS:
                self.in_flight_max = min(IN_FLIGHT, int.from_bytes(payload[i + 2:i + 6], "big"))
        self.out += _frame(SETTINGS, ACK, 0)

    def _on_frame(self, kind, flags, stream, payload):
        if kind == SETTINGS and not flags & ACK:
            self._on_settings(payload)
        elif kind == PING and not flags & ACK:
            self.out += _frame(PING, ACK, 0, payload)
        elif kind == WINDOW_UPDATE and stream == 0:
            self.window += int.from_bytes(payload, "big")
        elif kind == GOAWAY:
            raise Failure(f"{self.authority} ends the connection: {payload!r}")
        elif kind == DATA:
            self.answered[self.calls[stream]] = True
        if kind == RST_STREAM or kind in (DATA, HEADERS) and flags & END_STREAM:
            self.calls.pop(stream, None)

    def _receive(self):
        data = self.sock.recv(1 << 18)
        if not data:
            raise Failure(f"{self.authority} closed the connection")
        self.rest += data
        at = 0
        while len(self.rest) - at >= 9:
            end = at + 9 + int.from_bytes(self.rest[at:at + 3], "big")
            if end > len(self.rest):
                break
            self._on_frame(self.rest[at + 3], self.rest[at + 4],
                           int.from_bytes(self.rest[at + 5:at + 9], "big"),
                           bytes(self.rest[at + 9:end]))
            at = end
        del self.rest[:at]

    def call(self, path, requests):
        """For each request: was it answered with a message?"""
        block = _header_block(self.authority, path)
        self.answered = [False] * len(requests)
        at = 0
        while at < len(requests) or self.calls:
            while at < len(requests) and len(self.calls) < self.in_flight_max:
                body = b"\0" + len(requests[at]).to_bytes(4, "big") + requests[at]
                if self.window < len(body):
                    break
                self.window -= len(body)
                self.out += _frame(HEADERS, END_HEADERS, self.next_stream, block)
                self.out += _frame(DATA, END_STREAM, self.next_stream, body)
                self.calls[self.next_stream] = at
                self.next_stream += 2
                at += 1
            self.sock.sendall(self.out)
            self.out.clear()
            if self.calls:
                self._receive()
        return self.answered
