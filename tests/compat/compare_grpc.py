#!/usr/bin/python3
"""Sends the same gRPC requests to Conclave and to Debian's etcd and compares codes, texts and answers.

Each line of a scenario is a request; the two members get the same ones in the same order. Ids, raft
terms and the server's version are left out of the comparison, nothing else is.
"""

import os
import random
import sys

import grpc
from etcd3.etcdrpc import rpc_pb2 as pb

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "cluster"))

import harness  # noqa: E402

R, P, D, T, C = (pb.RangeRequest, pb.PutRequest, pb.DeleteRangeRequest, pb.TxnRequest,
                 pb.CompactionRequest)
Cmp, Op = pb.Compare, pb.RequestOp
ALL = {"key": b"\0", "range_end": b"\0"}


def put(**kw):
    return Op(request_put=P(**kw))


def get(**kw):
    return Op(request_range=R(**kw))


def delete(**kw):
    return Op(request_delete_range=D(**kw))


def txn(**kw):
    return Op(request_txn=T(**kw))


def edges():
    """One of each kind of request and of mistake."""
    yield R(key=b"")
    yield R(key=b"", range_end=b"x")
    yield R(**ALL)
    yield P(key=b"", value=b"x")
    yield P(key=b"a")
    yield P(key=b"a", value=b"1", prev_kv=True)
    yield P(key=b"b", value=b"1", prev_kv=True)
    yield P(key=b"a", value=b"x", ignore_value=True)
    yield P(key=b"a", ignore_value=True)
    yield P(key=b"a", value=b"2", ignore_lease=True)
    yield P(key=b"a", lease=5, ignore_lease=True)
    yield P(key=b"none", ignore_value=True)
    yield P(key=b"none", ignore_lease=True, value=b"x")
    yield P(key=b"none", ignore_lease=True, ignore_value=True)
    yield P(key=b"a", lease=77)
    yield P(key=b"\0", value=b"nul")
    yield P(key=b"\xff\xff", value=b"\xff")
    for i in range(8):
        yield P(key=b"k%d" % i, value=b"v%d" % (9 - i))
    for i in (3, 5, 3):
        yield P(key=b"k%d" % i, value=b"w%d" % i)
    for kw in ({}, {"limit": 3}, {"limit": -1}, {"limit": 100}, {"keys_only": True},
               {"count_only": True}, {"count_only": True, "limit": 1}, {"revision": 4},
               {"revision": 6, "limit": 2}, {"revision": 1}, {"revision": -5}, {"revision": 9999},
               {"serializable": True}, {"serializable": True, "revision": 9999}):
        yield R(**ALL, **kw)
        yield R(key=b"k", range_end=b"l", **kw)
        yield R(key=b"k3", **kw)
        yield R(key=b"nothing", **kw)
    for order in (0, 1, 2):
        for target in (0, 1, 2, 3, 4):  # etcd dies of other numbers
            yield R(**ALL, sort_order=order, sort_target=target)
            yield R(**ALL, sort_order=order, sort_target=target, limit=3)
    for name in ("min_mod_revision", "max_mod_revision", "min_create_revision",
                 "max_create_revision"):
        for value in (1, 7, 9, -1, 9999):
            yield R(**ALL, **{name: value})
            yield R(**ALL, limit=2, **{name: value})
    yield R(**ALL, min_mod_revision=6, max_mod_revision=9, sort_order=2, sort_target=3, limit=2)
    yield R(key=b"k5", range_end=b"k2")
    yield R(key=b"k5", range_end=b"k5")
    yield R(key=b"k5", range_end=b"\0")
    yield R(key=b"\xff", range_end=b"\0")
    yield D(key=b"")
    yield D(key=b"", range_end=b"\0")
    yield D(key=b"nothing", prev_kv=True)
    yield D(key=b"k7", prev_kv=True)
    yield D(key=b"k5", range_end=b"k2", prev_kv=True)
    yield D(key=b"k0", range_end=b"k2", prev_kv=True)
    yield T()
    yield T(success=[get(key=b"k3"), get(**ALL, count_only=True)])
    yield T(success=[put(key=b"k3", value=b"t"), get(key=b"k3"), get(key=b"k3", revision=2)])
    yield T(success=[get(key=b"k3", revision=9999)])
    yield T(success=[put(key=b"t1", value=b"1"), put(key=b"t1", value=b"2")])
    yield T(success=[put(key=b"t1", value=b"1"), delete(key=b"t1")])
    yield T(success=[put(key=b"t1", value=b"1"), delete(key=b"t", range_end=b"u")])
    yield T(success=[delete(key=b"t1"), delete(key=b"t", range_end=b"u")])
    yield T(success=[delete(key=b"t", range_end=b"u"), put(key=b"u", value=b"1")])
    yield T(success=[put(key=b"t1", value=b"1")], failure=[put(key=b"t1", value=b"2")])
    yield T(success=[put(key=b"")])
    yield T(success=[get(key=b"")])
    yield T(success=[delete(key=b"")])
    yield T(success=[Op()])
    yield T(success=[put(key=b"none", ignore_value=True)])
    yield T(success=[put(key=b"w", value=b"1"), put(key=b"none", ignore_value=True)])
    yield T(success=[put(key=b"w", value=b"1", lease=77)])
    yield R(key=b"w")
    for result in (0, 1, 2, 3, 9):
        for kw in ({"target": 0, "version": 1}, {"target": 0, "version": 2},
                   {"target": 1, "create_revision": 7}, {"target": 2, "mod_revision": 12},
                   {"target": 3, "value": b"1"}, {"target": 4, "lease": 0}, {"target": 9},
                   {"target": 3}):
            for key in ({"key": b"b"}, {"key": b"nothing"}, {"key": b"k", "range_end": b"l"},
                        {"key": b"x", "range_end": b"y"}, {"key": b""}):
                yield T(compare=[Cmp(result=result, **key, **kw)], success=[get(key=b"b")],
                        failure=[get(key=b"a")])
    yield T(compare=[Cmp(key=b"b", target=0, version=1), Cmp(key=b"a", target=0, version=99)],
            success=[put(key=b"no")], failure=[put(key=b"yes", prev_kv=True)])
    yield T(success=[txn(success=[put(key=b"n1", value=b"1")]), txn(success=[get(key=b"n1")])])
    yield T(success=[txn(success=[put(key=b"n1", value=b"1")]), put(key=b"n1", value=b"2")])
    yield T(success=[txn(compare=[Cmp(key=b"n1", target=0, version=0)],
                         success=[put(key=b"n2", value=b"1")],
                         failure=[delete(key=b"n1", prev_kv=True)]), get(key=b"n1")])
    yield T(success=[txn(success=[txn(success=[txn(success=[put(key=b"deep", value=b"1")])])])])
    yield T(success=[txn(success=[put(key=b"")])])
    yield T(success=[put(key=b"many%d" % i) for i in range(128)])
    yield T(success=[put(key=b"many%d" % i) for i in range(129)])
    yield T(failure=[get(key=b"many%d" % i) for i in range(129)])
    yield T(compare=[Cmp(key=b"a")] * 129)
    yield T(success=[txn(success=[get(key=b"x")] * 129)])
    yield P(key=b"large", value=b"x" * (1536 * 1024 - 200))
    yield P(key=b"large", value=b"x" * (1536 * 1024 + 10))
    yield P(key=b"large", value=b"x" * (3 << 20))
    yield R(key=b"large", keys_only=True)
    yield D(key=b"large")
    yield R(**ALL)
    yield C(revision=0)
    yield C(revision=-3)
    yield C(revision=9999)
    yield C(revision=10)
    yield C(revision=10)
    yield C(revision=9, physical=True)
    for revision in (8, 9, 10, 11, 12, 13):
        yield R(**ALL, revision=revision)
        yield T(success=[get(key=b"k3", revision=revision)])
        yield T(success=[put(key=b"c", value=b"1"), get(key=b"k3", revision=revision)])
    yield C(revision=20, physical=True)
    yield R(**ALL, revision=19)
    yield R(**ALL, revision=20)
    yield D(**ALL)
    yield R(**ALL)
    yield D(**ALL)
    yield pb.MemberListRequest()
    yield pb.AlarmRequest()
    yield pb.StatusRequest()


def random_requests(seed, count):
    """Valid requests over few keys, so that they meet."""
    rng = random.Random(seed)
    revision = 1

    def key():
        return b"r%d" % rng.randrange(12)

    def span():
        kind = rng.random()
        if kind < 0.5:
            return {"key": key()}
        if kind < 0.8:
            return {"key": key(), "range_end": key()}
        return {"key": key(), "range_end": b"\0"}

    def one(kind):
        if kind < 0.35:
            return P(key=key(), value=b"v%d" % rng.randrange(1000), prev_kv=rng.random() < 0.5)
        if kind < 0.45:
            return D(**span(), prev_kv=rng.random() < 0.5)
        return R(**span(), limit=rng.choice((0, 0, 1, 3)), revision=max(0, rng.choice(
            (0, 0, 0, revision - rng.randrange(12)))), sort_order=rng.randrange(3),
            sort_target=rng.randrange(5), keys_only=rng.random() < 0.2,
            count_only=rng.random() < 0.1)

    def op(depth):
        kind = rng.random()
        if kind > 0.9 and depth < 2:
            return Op(request_txn=transaction(depth + 1))
        request = one(kind)
        name = {P: "request_put", D: "request_delete_range", R: "request_range"}[type(request)]
        return Op(**{name: request})

    def transaction(depth=0):
        compares = []
        for _ in range(rng.randrange(3)):
            target = rng.randrange(4)
            field = ("version", "create_revision", "mod_revision", "value")[target]
            value = b"v%d" % rng.randrange(1000) if target == 3 else rng.randrange(revision + 3)
            compares.append(Cmp(result=rng.randrange(4), target=target, **span(), **{field: value}))
        return T(compare=compares, success=[op(depth) for _ in range(rng.randrange(4))],
                 failure=[op(depth) for _ in range(rng.randrange(4))])

    for _ in range(count):
        kind = rng.random()
        if kind < 0.25:
            yield transaction()
        elif kind < 0.27:
            yield C(revision=max(1, revision - rng.randrange(10)), physical=rng.random() < 0.5)
        else:
            yield one(rng.random())
        revision += 1 if kind < 0.6 else 0


def call(client, request):
    methods = {R: client.kv.Range, P: client.kv.Put, D: client.kv.DeleteRange, T: client.kv.Txn,
               C: client.kv.Compact, pb.MemberListRequest: client.cluster.MemberList,
               pb.AlarmRequest: client.maintenance.Alarm, pb.StatusRequest: client.maintenance.Status}
    try:
        answer = methods[type(request)](request, timeout=10)
    except grpc.RpcError as e:
        return f"{e.code().name}: {e.details()}"
    answer.header.ClearField("member_id")
    answer.header.ClearField("cluster_id")
    answer.header.ClearField("raft_term")
    if isinstance(request, pb.AlarmRequest):
        answer.header.ClearField("revision")  # 3.4 leaves it out, 3.5 and later fill it in
    if isinstance(request, pb.MemberListRequest):
        for m in answer.members:
            m.ID = 1 if m.ID else 0
            m.ClearField("peerURLs")
            m.ClearField("clientURLs")
    if isinstance(request, pb.StatusRequest):
        for name in ("version", "dbSize", "leader", "raftIndex", "raftTerm"):
            if not getattr(answer, name):
                return f"status without {name}"
            answer.ClearField(name)
    answer.DiscardUnknownFields()
    return str(answer)


def compare(name, requests, ours, theirs):
    run = differ = 0
    for request in requests:
        a, b = call(ours, request), call(theirs, request)
        run += 1
        if a == b:
            continue
        differ += 1
        if differ <= 25:
            print(f"{name}, request {run}: {type(request).__name__} {str(request)[:4000 if os.environ.get('VERBOSE') else 600]}\n"
                  f"  Conclave: {a[:900]!r}\n  etcd:     {b[:900]!r}")
    return run, differ


def main():
    seeds = [int(a) for a in sys.argv[1:]] or [1, 2, 3]
    total = differ = 0
    for name, requests in [("edges", edges())] + [(f"seed {s}", random_requests(s, 400))
                                                  for s in seeds]:
        with harness.Cluster(harness.Target.from_environment(), 1).start() as a, \
                harness.Cluster(harness.Target("etcd"), 1).start() as b, \
                a.members[0].client() as ours, b.members[0].client() as theirs:
            run, bad = compare(name, requests, ours, theirs)
            total, differ = total + run, differ + bad
    print(f"{total - differ} requests alike, {differ} differ", flush=True)
    os._exit(1 if differ else 0)  # not waiting for gRPC's threads


if __name__ == "__main__":
    main()
