"""A Watch stream of its own making: every field of the protocol, whatever the installed stubs know.

Messages are encoded and decoded here (protobuf wire format, the few fields there are), so that a
test sees exactly what was sent.
"""

import queue
import threading

import grpc

from harness import CHANNEL_OPTIONS, Failure
from protobuf_wire import field, fields, varint


def signed(v):
    return v - (1 << 64) if v >> 63 else v


# ---- messages ----

CREATE = {"key": 1, "range_end": 2, "start_revision": 3, "progress_notify": 4, "filters": 5,
          "prev_kv": 6, "watch_id": 7, "fragment": 8}
NOPUT, NODELETE = 0, 1


def create_request(**kw):
    body = b""
    for name, value in kw.items():
        if name == "filters":
            body += field(CREATE[name], b"".join(varint(f) for f in value))
        else:
            body += field(CREATE[name], value)
    return field(1, body)


def cancel_request(watch_id):
    return field(2, field(1, watch_id) if watch_id else b"")


def progress_request():
    return field(3, b"")


class KeyValue:
    NAMES = {1: "key", 2: "create_revision", 3: "mod_revision", 4: "version", 5: "value",
             6: "lease"}

    def __init__(self, data):
        self.key, self.value = b"", b""
        self.create_revision = self.mod_revision = self.version = self.lease = 0
        for n, v in fields(data):
            setattr(self, self.NAMES[n], v)

    def all(self):
        return (self.key, self.value, self.create_revision, self.mod_revision, self.version,
                self.lease)


class Event:
    def __init__(self, data):
        self.is_delete, self.kv, self.prev = False, None, None
        for n, v in fields(data):
            if n == 1:
                self.is_delete = v == 1
            elif n == 2:
                self.kv = KeyValue(v)
            elif n == 3:
                self.prev = KeyValue(v)

    @property
    def revision(self):
        return self.kv.mod_revision

    def all(self):
        return ("DELETE" if self.is_delete else "PUT", self.kv.all(),
                self.prev.all() if self.prev else None)


class Response:
    def __init__(self, data):
        self.size = len(data)
        self.revision = self.term = self.cluster_id = self.member_id = 0
        self.watch_id = self.compact_revision = 0
        self.created = self.canceled = self.fragment = False
        self.cancel_reason = ""
        self.events = []
        for n, v in fields(data):
            if n == 1:
                header = dict(fields(v))
                self.cluster_id, self.member_id = header.get(1, 0), header.get(2, 0)
                self.revision, self.term = signed(header.get(3, 0)), header.get(4, 0)
            elif n == 2:
                self.watch_id = signed(v)
            elif n == 3:
                self.created = v == 1
            elif n == 4:
                self.canceled = v == 1
            elif n == 5:
                self.compact_revision = signed(v)
            elif n == 6:
                self.cancel_reason = v.decode()
            elif n == 7:
                self.fragment = v == 1
            elif n == 11:
                self.events.append(Event(v))

    def all(self):
        """What two servers must agree on."""
        return {"revision": self.revision, "watch_id": self.watch_id, "created": self.created,
                "canceled": self.canceled, "compact_revision": self.compact_revision,
                "cancel_reason": self.cancel_reason, "fragment": self.fragment,
                "events": [e.all() for e in self.events]}


class WatchStream:
    """One stream on a channel of its own. Responses come from next()."""

    def __init__(self, address, metadata=(), channel=None):
        self.own = channel is None
        self.channel = channel or grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        self.requests = queue.Queue()
        self.responses = queue.Queue()
        self.going = threading.Event()
        self.going.set()
        method = self.channel.stream_stream("/etcdserverpb.Watch/Watch",
                                            request_serializer=lambda b: b,
                                            response_deserializer=Response)
        self.call = method(iter(self.requests.get, None), metadata=metadata)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def pause(self):
        """Takes nothing any more: what arrives fills the connection's windows."""
        self.going.clear()

    def resume(self):
        self.going.set()

    def _read(self):
        try:
            for r in self.call:
                self.responses.put(r)
                self.going.wait()
            self.responses.put(None)
        except grpc.RpcError as e:
            self.responses.put(e)

    def send(self, request):
        self.requests.put(request)

    def create(self, **kw):
        self.send(create_request(**kw))

    def cancel(self, watch_id):
        self.send(cancel_request(watch_id))

    def progress(self):
        self.send(progress_request())

    def next(self, timeout_s=20):
        try:
            r = self.responses.get(timeout=timeout_s)
        except queue.Empty:
            raise Failure(f"no watch response within {timeout_s} s") from None
        if r is None or isinstance(r, grpc.RpcError):
            self.responses.put(r)
            raise Failure(f"the watch stream ended: {r!r}")
        return r

    def ended(self, timeout_s=20):
        """The error it ends with, whatever comes before."""
        while True:
            try:
                r = self.responses.get(timeout=timeout_s)
            except queue.Empty:
                raise Failure(f"the stream did not end within {timeout_s} s") from None
            if r is None or isinstance(r, grpc.RpcError):
                return r

    def close(self):
        self.going.set()
        self.call.cancel()
        self.requests.put(None)
        if self.own:
            self.channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
