"""The JSON gateway over WebSockets, with Debian's websocket-client: watches and renewals that go both
ways, tokens, and what becomes of frames that no honest client sends."""

import base64
import http.client
import json
import os
import socket
import struct

import websocket

from auth import add_users, login
from calls import KV, LEASE, Caller
from harness import Cluster, Failure, until
from protobuf_wire import fields_of, msg
from tests import test

WAIT_S = 60
GONE = "the connection is gone"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def b64(text):
    return base64.b64encode(text.encode()).decode()


class Socket:
    """One WebSocket; everything is waited for, nothing for ever."""

    def __init__(self, member, path, **options):
        self.ws = websocket.create_connection(f"ws://{member.address}{path}", timeout=WAIT_S,
                                              **options)

    def send(self, message):
        self.ws.send(json.dumps(message))

    def frame(self):
        """(opcode, payload) as it came, control frames included; GONE at the end."""
        try:
            frame = self.ws.recv_frame()
        except (websocket.WebSocketConnectionClosedException, ConnectionError):
            return GONE, b""
        return frame.opcode, frame.data

    def next(self):
        opcode, data = self.frame()
        if opcode != TEXT:
            raise Failure(f"frame {opcode} {data!r} instead of a message")
        return json.loads(data)

    def result(self):
        message = self.next()
        if "result" not in message:
            raise Failure(f"{message} instead of a result")
        return message["result"]

    def raw(self, data):
        self.ws.sock.sendall(data)

    def ended(self):
        """The close code it was ended with; GONE without one (etcd does not say goodbye)."""
        opcode, data = self.frame()
        if opcode == CLOSE:
            if self.frame()[0] != GONE:
                raise Failure("there is something after the close")
            return struct.unpack(">H", data[:2])[0] if data else 1005
        if opcode != GONE:
            raise Failure(f"frame {opcode} {data!r} instead of the end")
        return GONE

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ws.shutdown()


def masked(first, payload, length=None):
    """A frame as a client sends it; length: what it says of itself instead."""
    mask = os.urandom(4)
    data = bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
    return bytes([first]) + (length or bytes([0x80 | len(payload)])) + mask + data


def expect(what, got, want):
    if got != want:
        raise Failure(f"{what}: {got}, expected {want}")


def create(key, **more):
    return {"create_request": {"key": b64(key), **more}}


def watch_both_ways(member, client):
    with Socket(member, "/v3/watch") as s:
        s.send(create("ws"))
        expect("created", s.result()["created"], True)
        client.put("ws", "one")
        event = s.result()["events"][0]["kv"]
        expect("the event", (event["key"], event["value"]), (b64("ws"), b64("one")))
        s.send(create("other", watch_id="7", prev_kv=True))
        created = s.result()
        expect("the second watch", (created["watch_id"], created["created"]), ("7", True))
        client.put("other", "x")
        client.put("other", "y")
        expect("its first event", "prev_kv" in s.result()["events"][0], False)
        expect("its second", s.result()["events"][0]["prev_kv"]["value"], b64("x"))
        # a request in pieces, with a ping between them, then two requests in one message
        text = json.dumps({"cancel_request": {"watch_id": 7}}).encode()
        s.raw(masked(TEXT, text[:5]) + masked(0x80 | PING, b"still there?") +
              masked(CONTINUATION, text[5:9]) + masked(0x80 | CONTINUATION, text[9:]))
        expect("the answer to the ping", s.frame(), (PONG, b"still there?"))
        canceled = s.result()
        expect("canceled", (canceled["watch_id"], canceled["canceled"]), ("7", True))
        both = (json.dumps(create("p")) + json.dumps(create("q"))).encode().ljust(200)
        s.raw(masked(0x80 | BINARY, both, b"\xfe" + struct.pack(">H", len(both))))
        expect("two at once", [s.result()["created"] for _ in range(2)], [True, True])
        # byte by byte
        for byte in masked(0x80 | TEXT, json.dumps(create("r")).encode()):
            s.raw(bytes([byte]))
        expect("byte by byte", s.result()["created"], True)


def renewals(member, caller):
    lease = fields_of(caller.must(LEASE + "LeaseGrant", msg((1, 600))))[2][0]
    with Socket(member, "/v3/lease/keepalive") as s:
        for _ in range(3):
            s.send({"ID": str(lease)})
            answer = s.result()
            expect("renewed", (answer["ID"], answer["TTL"]), (str(lease), "600"))
        s.send({"ID": "12345"})
        expect("a lease that is not", "TTL" in s.result(), False)


@test("websocket-streams", 6)
def streams(target):
    with Cluster(target, 1).start() as cluster:
        m = cluster.members[0]
        caller = Caller(m)
        with m.client() as client:
            watch_both_ways(m, client)
            renewals(m, caller)
            if not target.is_etcd:
                other_kinds(m, client)
        # a client that leaves, with and without a goodbye: its watch ends
        count = 'grpc_server_handled_total{grpc_code="Canceled",grpc_method="Watch",' \
                'grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"} '
        for goodbye in (True, False):
            before = metric(m, count)
            with Socket(m, "/v3/watch") as s:
                s.send(create("leaves"))
                s.result()
                if goodbye:
                    s.raw(masked(0x80 | CLOSE, struct.pack(">H", 1001) + b"going"))
                    expect("the answer to a goodbye", s.ended(), 1001)
            if not target.is_etcd:  # it does not count these
                until("the watch of a client that left has ended",
                      lambda: metric(m, count) > before)
        with Socket(m, "/v3/nowhere") as s:
            opcode, data = s.frame()
            expect("a path that is not there", (opcode, b"Not Found" in data), (TEXT, True))
            expect("its end", s.ended(), GONE if target.is_etcd else 1000)
        with Socket(m, "/v3/watch") as s:
            s.send(create("last"))
            s.result()
            m.stop()
            while s.frame()[0] in (TEXT, CLOSE):
                pass
        return "watches, renewals, goodbyes"


def metric(member, name):
    connection = http.client.HTTPConnection(member.address, timeout=WAIT_S)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return sum(float(line[len(name):]) for line in lines if line.startswith(name))


def other_kinds(member, client):
    """What is not a stream of requests, and requests that are none. etcd waits here for an end that a
    WebSocket does not have, and goes on without a word."""
    for begun in (False, True):
        with Socket(member, "/v3/watch") as s:
            if begun:
                s.send(create("k"))
                s.result()
            s.raw(masked(0x80 | TEXT, b'{"create_request": 7}'))
            message = s.next()
            expect("what is no request", message.get("error", message)["code"], 3)
            expect("the end", s.ended(), 1000)
    client.put("unary", "value")
    with Socket(member, "/v3/kv/range") as s:
        s.raw(masked(TEXT, b'{"key": "') + masked(0x80 | CONTINUATION, b64("unary").encode() + b'"}'))
        expect("a range", s.next()["kvs"][0]["value"], b64("value"))
        expect("its end", s.ended(), 1000)
    with Socket(member, "/v3/kv/range") as s:
        s.raw(masked(0x80 | TEXT, b'{"key":') + masked(0x80 | TEXT, b'"' + b64("unary").encode() +
                                                       b'"}'))
        expect("one in two messages", s.next()["kvs"][0]["value"], b64("value"))
    with Socket(member, "/v3/kv/put") as s:
        s.send({"value": b64("x")})
        expect("an error", s.next(), {"code": 3, "message": "etcdserver: key is not provided"})
        expect("its end", s.ended(), 1000)
    with Socket(member, "/v3/maintenance/snapshot") as s:
        s.send({})
        size, left = 0, None
        while left != 0:
            part = s.result()
            size += len(base64.b64decode(part.get("blob", "")))
            left = int(part.get("remaining_bytes", "0"))
        opcode, data = s.frame()  # the checksum
        size += len(base64.b64decode(json.loads(data)["result"]["blob"])) if opcode == TEXT else 0
        expect("the size of a snapshot", size % 512, 32)
    with Socket(member, "/v3/auth/authenticate") as s:
        expect("a password", s.next(), {"code": 12, "message": "not over a WebSocket"})
        expect("its end", s.ended(), 1000)
    with Socket(member, "/v3/lock/lock") as s:
        s.send({"name": b64("ws-lock")})
        expect("a lock", "key" in s.next(), True)
    with Socket(member, "/v3/lock/lock") as s:  # who waits for it leaves
        s.send({"name": b64("ws-lock")})
        until("it is in line", lambda: count_below(client, b"ws-lock/", b"ws-lock0") == 2)
        s.raw(masked(0x80 | CLOSE, b""))
        expect("the answer to a goodbye", s.ended(), 1005)
    until("it has left the line", lambda: count_below(client, b"ws-lock/", b"ws-lock0") == 1)


def count_below(client, key, end):
    from etcd3.etcdrpc import rpc_pb2 as pb  # pylint: disable=import-outside-toplevel
    return client.kv.Range(pb.RangeRequest(key=key, range_end=end, count_only=True)).count


# what is sent, the code of the close that answers it
MALFORMED = [
    ("not masked", b"\x81\x01a", 1002), ("a reserved bit", masked(0xc1, b"a"), 1002),
    ("a reserved opcode", masked(0x83, b"a"), 1002),
    ("a reserved control opcode", masked(0x8b, b""), 1002),
    ("a continuation of nothing", masked(0x80, b"a"), 1002),
    ("a message within a message", masked(0x01, b"a") + masked(0x81, b"b"), 1002),
    ("a ping in pieces", masked(0x09, b"a"), 1002),
    ("a ping that is too long", masked(0x89, b"x" * 126, b"\xfe\x00\x7e"), 1002),
    ("a close with a code that is none", masked(0x88, struct.pack(">H", 999)), 1002),
    ("a close with 1005", masked(0x88, struct.pack(">H", 1005)), 1002),
]
MALFORMED_HERE = [
    ("text that is none", masked(0x81, b"\xff"), 1007),
    ("half a code", masked(0x88, b"\x03"), 1002),
    ("a length that could be shorter", masked(0x81, b"", b"\xfe\x00\x05"), 1002),
    ("more than there may be", masked(0x81, b"", b"\xff" + struct.pack(">Q", 1 << 40)), 1009),
    ("a negative length", masked(0x81, b"", b"\xff" + struct.pack(">Q", 1 << 63)), 1002),
]


@test("websocket-malformed", 5)
def malformed(target):
    with Cluster(target, 1).start() as cluster:
        m = cluster.members[0]
        rows = MALFORMED + ([] if target.is_etcd else MALFORMED_HERE)
        for begun in (False, True):
            for name, data, code in rows:
                with Socket(m, "/v3/watch") as s:
                    if begun:
                        s.send(create("k"))
                        s.result()
                    s.raw(data)
                    expect(name, s.ended(), code)
        # cut off anywhere, it is over and nothing is left
        whole = masked(0x80 | TEXT, json.dumps(create("cut")).encode())
        for at in range(len(whole)):
            with Socket(m, "/v3/watch") as s:
                s.raw(whole[:at])
        if not target.is_etcd:
            until("no call is left", lambda: metric(m, "etcd_debugging_mvcc_watcher_total ") == 0)
        for name, method, headers, status in (
                ("no key", "GET", {"Sec-WebSocket-Version": "13"}, 400),
                ("a short key", "GET", {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "QQ=="},
                 None if target.is_etcd else 400),
                ("another version", "GET", {"Sec-WebSocket-Version": "8",
                                            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}, 400),
                ("a POST", "POST", {"Sec-WebSocket-Version": "13",
                                    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}, 405)):
            if status is None:
                continue
            connection = http.client.HTTPConnection(m.address, timeout=WAIT_S)
            connection.request(method, "/v3/watch", headers={
                "Connection": "keep-alive, Upgrade", "Upgrade": "WebSocket", **headers})
            expect(name, connection.getresponse().status, status)
            connection.close()
        # the first frame comes with the handshake
        with socket.create_connection(("127.0.0.1", m.client_port), timeout=WAIT_S) as raw:
            raw.sendall(b"GET /v3/watch HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
                        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" +
                        (b"" if target.is_etcd else whole))
            answer = b""
            while b"\r\n\r\n" not in answer or \
                    (not target.is_etcd and b'"created":true' not in answer):
                data = raw.recv(4096)
                if not data:
                    raise Failure(f"it ended with {answer!r}")
                answer += data
            expect("the handshake", (answer.split(b"\r\n")[0],
                                     b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer),
                   (b"HTTP/1.1 101 Switching Protocols", True))
        cluster.stop()
        return f"{len(rows)} frames"


@test("websocket-tokens", 6)
def tokens(target):
    """Where a browser can put one: the subprotocol, or a cookie."""
    flags = [] if target.is_etcd else ["--bcrypt-cost", "4"]
    with Cluster(target, 1, flags).start() as cluster:
        m = cluster.members[0]
        caller = Caller(m)
        add_users(caller)
        token = login(caller, "rwuser", "pw-rwuser")

        def watch(key, **options):
            with Socket(m, "/v3/watch", **options) as s:
                s.send(create(key))
                answer = s.result()
                return s.ws.getsubprotocol(), answer.get("cancel_reason", "")

        # the library tells in lower case what was agreed on
        denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
        empty = "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"
        invalid = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
        if target.is_etcd:  # up to 3.5 it takes "Bearer " for a part of the token
            expect("no token", watch("a")[1], empty)
            expect("a token", watch("a", subprotocols=["Bearer", token]), ("bearer", invalid))
            cluster.stop()
            return "no token is good"
        expect("the subprotocol", watch("a", subprotocols=["Bearer", token]), ("bearer", ""))
        expect("a cookie", watch("a", cookie=f"x=1; token={token}; y=2"), (None, ""))
        expect("another's key", watch("zz", subprotocols=["Bearer", token])[1], denied)
        expect("no token", watch("a")[1], empty)
        expect("a wrong one", watch("a", subprotocols=["Bearer", "nonsense.1"])[1], invalid)
        if caller.call(KV + "Range", msg((1, "a")))[0][1] != "etcdserver: user name is empty":
            raise Failure("auth is off")
        cluster.stop()
        return "subprotocol, cookie"
