"""gRPC calls of requests written as bytes, so that methods newer than the Python client are covered too."""

import grpc

from harness import CHANNEL_OPTIONS, Failure
from protobuf_wire import msg

OK = (grpc.StatusCode.OK, "")
KV = "/etcdserverpb.KV/"
LEASE = "/etcdserverpb.Lease/"
CLUSTER = "/etcdserverpb.Cluster/"
MAINT = "/etcdserverpb.Maintenance/"
RANGE, PUT, DELETE, TXN = 1, 2, 3, 4  # operations of a transaction


def auth(name):
    return "/etcdserverpb.Auth/" + name


def outcome_of(error):
    return error.code(), error.details()


class Caller:
    def __init__(self, member, token=None, credentials=None):
        self.channel = (grpc.secure_channel(member.address, credentials, options=CHANNEL_OPTIONS)
                        if credentials else
                        grpc.insecure_channel(member.address, options=CHANNEL_OPTIONS))
        self.metadata = [("token", token)] if token is not None else []

    def call(self, path, request, timeout=10):
        """(code, text), and the answer's bytes."""
        try:
            answer = self.channel.unary_unary(path)(request, metadata=self.metadata,
                                                    timeout=timeout)
            return OK, answer
        except grpc.RpcError as e:
            return outcome_of(e), None

    def first_of_stream(self, path, request, timeout=10):
        call = self.channel.stream_stream(path)(iter([request]), metadata=self.metadata,
                                                timeout=timeout)
        try:
            answer = next(call, b"")
            return OK, answer
        except grpc.RpcError as e:
            return outcome_of(e), None
        finally:
            call.cancel()

    def must(self, path, request):
        outcome, answer = self.call(path, request)
        if outcome != OK:
            raise Failure(f"{path}: {outcome}")
        return answer


# ---- requests ----

def rng(key, end="", **kw):
    return msg((1, key), (2, end), *[(n, v) for n, v in kw.get("more", [])])


def op(kind, request):
    return msg((kind, request))


def compare(key, end=""):
    # version of key >= 0 ... any relation does
    return msg((1, 0), (2, 0), (3, key), (4, 0), *([(64, end)] if end else []))


def txn(compares=(), success=(), failure=()):
    return msg((1, list(compares)), (2, list(success)), (3, list(failure)))
