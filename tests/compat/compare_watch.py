#!/usr/bin/python3
"""The same watch streams on Conclave and on etcd: every response must be alike, ids of the cluster and
terms aside.

compare_watch.py [-v]

CONCLAVE_PREFIX is where Conclave is installed; ETCD_PROGRAM is the etcd (Debian's unless given; a 3.5
is what Conclave follows where they differ). A scenario is a list of steps; after each one as many
responses are awaited as it says, and at the end nothing more may have come.
"""

import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "cluster"))

from etcd3.etcdrpc import rpc_pb2 as pb  # noqa: E402

from harness import Cluster, Target  # noqa: E402
from watch_stream import NODELETE, NOPUT, WatchStream  # noqa: E402


def create(n=1, **kw):
    return (lambda s, c: s.create(**kw)), n


def past(events, **kw):
    """A watcher of the past: `created`, then so many events in any number of responses."""
    return (lambda s, c: s.create(**kw)), Events(events)


class Events(int):
    pass


def cancel(watch_id, n=1):
    return (lambda s, c: s.cancel(watch_id)), n


def progress(n):
    return (lambda s, c: s.progress()), n


def put(key, value, n, **kw):
    return (lambda s, c: c.kv.Put(pb.PutRequest(key=key, value=value, **kw))), n


def delete(key, n, range_end=b""):
    return (lambda s, c: c.kv.DeleteRange(pb.DeleteRangeRequest(key=key, range_end=range_end))), n


def compact(back, n):
    """Up to `back` revisions before the newest one."""
    def run(_s, c):
        revision = c.kv.Range(pb.RangeRequest(key=b"x")).header.revision
        c.kv.Compact(pb.CompactionRequest(revision=revision - back, physical=True))
    return run, n


def txn(ops, n):
    def run(_s, c):
        c.kv.Txn(pb.TxnRequest(success=[
            pb.RequestOp(request_put=pb.PutRequest(key=k, value=v)) if v is not None else
            pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=k)) for k, v in ops]))
    return run, n


def raw(data, n):
    return (lambda s, c: s.send(data)), n


HISTORY = [put(b"h1", b"1", 0), put(b"h2", b"2", 0), put(b"h1", b"3", 0), delete(b"h2", 0),
           txn([(b"h1", b"4"), (b"h2", b"5"), (b"h3", b"6")], 0), delete(b"h", 0, b"i")]

SCENARIOS = {
    "one key": [create(key=b"a"), put(b"a", b"1", 1), put(b"a", b"2", 1), put(b"b", b"1", 0),
                delete(b"a", 1), delete(b"a", 0), cancel(0), put(b"a", b"3", 0)],
    "previous values": [create(key=b"a", prev_kv=True), put(b"a", b"1", 1), put(b"a", b"2", 1),
                        delete(b"a", 1), put(b"a", b"3", 1)],
    "ranges": [create(key=b"a", range_end=b"c"), create(key=b"b", range_end=b"\0"),
               create(key=b"\0", range_end=b"\0"), put(b"a", b"1", 2), put(b"c", b"2", 2)],
    "empty key": [create(key=b""), create(key=b"", range_end=b"\0"), create(),
                  put(b"x", b"1", 1), put(b"\0", b"1", 3)],
    "bad ranges": [create(key=b"b", range_end=b"a"), create(key=b"b", range_end=b"b"),
                   create(key=b"", range_end=b""), create(key=b"b", range_end=b"a", watch_id=7),
                   create(key=b"b"), put(b"b", b"1", 1)],
    "given ids": [create(key=b"a", watch_id=5), create(key=b"a", watch_id=5), create(key=b"b"),
                  create(key=b"c", watch_id=1), create(key=b"d"), create(key=b"e", watch_id=-3),
                  create(key=b"f", watch_id=9223372036854775807), put(b"d", b"1", 1), cancel(5),
                  cancel(5, 0), create(key=b"a", watch_id=5), put(b"a", b"1", 1),
                  cancel(77, 0), cancel(-3), put(b"e", b"1", 0)],
    "filters": [create(key=b"a", filters=[NOPUT]), create(key=b"a", filters=[NODELETE]),
                create(key=b"a", filters=[NOPUT, NODELETE]), put(b"a", b"1", 1), delete(b"a", 1)],
    "txn in one response": [create(key=b"a", range_end=b"z"), create(key=b"b"),
                            txn([(b"a", b"1"), (b"b", b"2"), (b"c", b"3")], 2),
                            txn([(b"a", None), (b"d", b"4")], 1)],
    "past": HISTORY + [past(4, key=b"h1", start_revision=2)],
    "past range": HISTORY + [past(10, key=b"h", range_end=b"i", start_revision=1, prev_kv=True)],
    "past filtered": HISTORY + [past(4, key=b"h", range_end=b"i", start_revision=1,
                                     filters=[NOPUT])],
    "now and later": HISTORY + [create(key=b"h1", start_revision=8), put(b"h1", b"x", 1),
                                create(key=b"h1", start_revision=10), put(b"h1", b"y", 1),
                                put(b"h1", b"z", 2)],
    # not here: with a watcher that starts in the future, etcd answers since 3.6 as we do: nothing
    "progress": [progress(0), create(key=b"a"), progress(1), put(b"b", b"1", 0), progress(1),
                 create(key=b"a", range_end=b"b"), progress(1), cancel(0), progress(1), cancel(1),
                 progress(0)],
    "compacted": HISTORY + [compact(0, 0), create(2, key=b"h1", start_revision=2),
                            create(2, key=b"h1", start_revision=1, watch_id=3),
                            create(key=b"h1"), put(b"h1", b"n", 1)],
    "compact revision itself": HISTORY + [put(b"h1", b"v", 0), compact(0, 0),
                                          past(1, key=b"h", range_end=b"i", start_revision=8)],
    "previous value compacted": [put(b"p", b"1", 0), put(b"p", b"2", 0), compact(0, 0),
                                 past(1, key=b"p", start_revision=3, prev_kv=True),
                                 put(b"p", b"3", 1)],
    "empty requests": [raw(b"", 0), create(key=b"a"), put(b"a", b"1", 1)],
}


# What etcd does as we do only since this series.
SINCE = {"progress": "3.5"}


def merged(stream, count):
    """`created`, and the events after it in one response."""
    created = stream.next().all()
    first = None
    while first is None or len(first["events"]) < count:
        r = stream.next().all()
        if first is None:
            first = r
        else:
            first["events"] += r["events"]
    return [created, first]


class Side:
    def __init__(self, target):
        self.target = target

    def run(self, steps):
        """A fresh member for every scenario: then revisions are alike too."""
        got = []
        with Cluster(self.target, 1).start() as cluster:
            member = cluster.members[0]
            cluster.wait_healthy()
            with WatchStream(member.address) as stream, member.client() as client:
                for act, count in steps:
                    act(stream, client)
                    if isinstance(count, Events):
                        got.append(merged(stream, count))
                        continue
                    # which of several watchers is told first is a matter of chance in etcd
                    got.append(sorted((stream.next().all() for _ in range(count)),
                                      key=lambda r: r["watch_id"]))
                stream.create(key=b"the end", watch_id=424242)
                last = stream.next().all()
                got.append([last])
        return got


def main():
    etcd = Target("etcd")
    etcd.program = os.environ.get("ETCD_PROGRAM", etcd.program)
    ours = Side(Target.from_environment())
    theirs = Side(etcd)
    wanted = [a for a in sys.argv[1:] if a != "-v"]
    different = 0
    version = subprocess.run([etcd.program, "--version"], capture_output=True, text=True,
                             check=True).stdout.split()[2]
    names = [n for n in wanted or SCENARIOS if SINCE.get(n, "3") <= version]
    for name in names:
        steps = SCENARIOS[name]
        try:
            a, b = ours.run(steps), theirs.run(steps)
        except Exception as e:  # pylint: disable=broad-except
            print(f"{name}: {e}")
            different += 1
            continue
        if a != b:
            different += 1
            print(f"{name}: different")
            for i, (x, y) in enumerate(zip(a, b)):
                if x != y:
                    print(f"  step {i}:\n    conclave {x}\n    etcd     {y}")
        elif "-v" in sys.argv:
            print(f"{name}: alike")
    print(f"{len(names) - different} alike, {different} different")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
