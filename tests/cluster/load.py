"""Clients that put, get and compare-and-put at once, and remember everything they saw."""

import collections
import os
import random
import struct
import subprocess
import threading
import time

import grpc
from etcd3.etcdrpc import rpc_pb2 as pb

import checker
from harness import Client, Failure, until

OP_TIMEOUT_S = 10  # longer than any answer may take, unknown outcomes included


def put_body(path, key, value):
    """A file with one gRPC request, for h2load."""
    message = pb.PutRequest(key=key, value=value).SerializeToString()
    with open(path, "wb") as f:
        f.write(b"\0" + struct.pack(">I", len(message)) + message)


def h2load(member, body, count, connections=4, streams=50):
    return subprocess.Popen(
        ["nice", "h2load", "-n", str(count), "-c", str(connections), "-m", str(streams), "-d", body,
         "-H", "content-type: application/grpc", "-H", "te: trailers",
         member.client_url + "/etcdserverpb.KV/Put"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def pressure(member, stopping):
    bodies = [os.path.join(member.dir, f"pressure{i}") for i in range(8)]
    for i, path in enumerate(bodies):
        put_body(path, f"pressure/{i}".encode(), b"p" * 200)
    count = 0
    while not stopping.is_set():
        count += 1
        with h2load(member, bodies[count % len(bodies)], 4000, 2, 20) as p:
            while p.poll() is None:
                if stopping.wait(0.05):
                    p.kill()
        stopping.wait(0.02)  # nobody answers while the member is down


class Load:
    """`clients` threads, thread i at member i modulo n, each over its own connection."""

    def __init__(self, members, clients=6, keys=6, seed=1, prefix="load/"):
        self.members = members
        self.keys = [f"{prefix}{i}" for i in range(keys)]
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.ops = []
        self.acked = collections.Counter()   # member name -> operations with a result
        self.errors = collections.Counter()  # (member name, code, details)
        self.threads = [threading.Thread(target=self._run, args=(i, random.Random(seed * 1000 + i)),
                                         daemon=True) for i in range(clients)]

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.stopping.set()
        for t in self.threads:
            if t.is_alive():
                t.join()

    def _run(self, number, rng):
        member = self.members[number % len(self.members)]
        client = Client(member)
        count = 0
        last = {}  # key -> value seen last, to swap from
        while not self.stopping.is_set():
            key = rng.choice(self.keys)
            kind = rng.random()
            count += 1
            op = checker.Op(number, key, time.monotonic_ns(), None)
            try:
                if kind < 0.4:
                    self._put(client, op, f"{number}-{count}")
                elif kind < 0.8:
                    self._get(client, op)
                else:
                    self._swap(client, op, last.get(key), f"{number}-{count}")
                op.end = time.monotonic_ns()
                last[key] = op.write if op.write is not False else op.read
                with self.lock:
                    self.acked[member.name] += 1
                    self.ops.append(op)
            except grpc.RpcError as e:
                with self.lock:
                    self.errors[(member.name, e.code().name, e.details())] += 1
                    if op.write is not False:
                        op.read = False
                        self.ops.append(op)  # it may have happened
                self.stopping.wait(0.02)
        client.close()

    @staticmethod
    def _put(client, op, value):
        op.write = value
        r = client.put(op.key, value, OP_TIMEOUT_S)
        op.write_revision = op.header_revision = r.header.revision

    @staticmethod
    def _get(client, op):
        kv, op.header_revision = client.get(op.key, timeout=OP_TIMEOUT_S)
        op.read = kv.value.decode() if kv else checker.INITIAL
        op.read_revision = kv.mod_revision if kv else 0

    @staticmethod
    def _swap(client, op, old, new):
        key = op.key.encode()
        compare = pb.Compare(key=key, result=pb.Compare.EQUAL)
        if old is None:
            compare.target = pb.Compare.CREATE
            compare.create_revision = 0
        else:
            compare.target = pb.Compare.VALUE
            compare.value = old.encode()
        op.write = new
        r = client.kv.Txn(pb.TxnRequest(
            compare=[compare],
            success=[pb.RequestOp(request_put=pb.PutRequest(key=key, value=new.encode(),
                                                            prev_kv=True))],
            failure=[pb.RequestOp(request_range=pb.RangeRequest(key=key))]), timeout=OP_TIMEOUT_S)
        op.header_revision = r.header.revision
        if r.succeeded:
            op.write_revision = r.header.revision
            op.read = old if old is not None else checker.INITIAL
            if old is not None:
                op.read_revision = r.responses[0].response_put.prev_kv.mod_revision
            return
        op.write = False
        kvs = r.responses[0].response_range.kvs
        op.read = kvs[0].value.decode() if kvs else checker.INITIAL
        op.read_revision = kvs[0].mod_revision if kvs else 0

    def press(self, member):
        """Adds a stream of plain puts at one member that is as fast as it goes (not recorded)."""
        thread = threading.Thread(target=pressure, args=(member, self.stopping), daemon=True)
        thread.start()
        self.threads.append(thread)

    # -- for tests --

    def count(self, member=None):
        with self.lock:
            return self.acked[member.name] if member else sum(self.acked.values())

    def wait_more(self, n, members=None, timeout_s=40):
        """n more operations with a result at each of these members."""
        goals = [(m, self.count(m) + n) for m in (members or self.members)]
        until(lambda: f"{n} more results at each of {[m.name for m, _ in goals]}; so far "
              f"{dict(self.acked)}, errors {dict(self.errors)}",
              lambda: all(self.count(m) >= goal for m, goal in goals), timeout_s)

    def finish(self, allow_timeouts=False):
        """Stops, reads every key once more, checks the history; returns a summary."""
        self.stop()
        for m in self.members:
            with Client(m) as c:
                for key in self.keys:
                    op = checker.Op(99, key, time.monotonic_ns(), None)
                    self._get(c, op)
                    op.end = time.monotonic_ns()
                    self.ops.append(op)
        problems = checker.check(self.ops)
        timeouts = {k: v for k, v in self.errors.items() if k[1] == "DEADLINE_EXCEEDED"}
        if timeouts and not allow_timeouts:
            problems.append(f"requests that never ended: {timeouts}")
        if problems:
            raise Failure(f"{len(problems)} problems in {len(self.ops)} operations, the first:\n    "
                          + "\n    ".join(problems[:8]))
        unknown = sum(op.end is None for op in self.ops)
        return f"{len(self.ops)} operations, {unknown} of unknown outcome"
