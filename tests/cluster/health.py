"""grpc.health.v1.Health as balancers and probes use it: Check, List, and Watch with every change."""

import queue
import signal
import threading

import grpc

from calls import CLUSTER, KV, MAINT, Caller
from harness import Cluster, Failure, Member, until
from protobuf_wire import fields_of, msg
from tests import test

HEALTH = "/grpc.health.v1.Health/"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
WAIT_S = 60


class Watch:
    """What one Watch is told, in order, and how it ends."""

    def __init__(self, member, service="", timeout=120):
        self.channel = Caller(member).channel
        self.call = self.channel.unary_stream(HEALTH + "Watch")(
            msg((1, service)) if service else b"", timeout=timeout)
        self.told = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            for answer in self.call:
                self.told.put(fields_of(answer).get(1, [0])[0])
            self.told.put("ended")
        except grpc.RpcError as e:
            self.told.put((e.code(), e.details()))

    def next(self):
        try:
            return self.told.get(timeout=WAIT_S)
        except queue.Empty:
            raise Failure("a watch of the health is told nothing") from None

    def expect(self, *wanted):
        for want in wanted:
            got = self.next()
            if got != want:
                raise Failure(f"a watch of the health was told {got}, expected {want}")

    def expect_quiet(self):
        """Nothing else was told; calls that came after it have been answered."""
        if not self.told.empty():
            raise Failure(f"a watch of the health was told {self.told.get()}")


def expect(got, want):
    if got != want:
        raise Failure(f"{got}, expected {want}")


def check(caller, service=""):
    outcome, answer = caller.call(HEALTH + "Check", msg((1, service)) if service else b"")
    return fields_of(answer)[1][0] if answer is not None else outcome


@test("health-watched", 6)
def watched(target):
    with Cluster(target, 1).start() as cluster:
        m = cluster.members[0]
        caller = Caller(m)
        expect(check(caller), SERVING)
        expect(check(caller, "etcdserverpb.KV"), (grpc.StatusCode.NOT_FOUND, "unknown service"))
        known, unknown = Watch(m), Watch(m, "etcdserverpb.KV")
        known.expect(SERVING)
        unknown.expect(SERVICE_UNKNOWN)
        if not target.is_etcd:
            expect(fields_of(fields_of(caller.must(HEALTH + "List", b""))[1][0])[2],
                   [msg((1, SERVING))])
        caller.must(MAINT + "Defragment", b"")  # without the setting nothing stops
        # a client that leaves, one whose time is over, and one that sends nonsense
        left = Watch(m)
        left.expect(SERVING)
        left.call.cancel()
        expect(left.next()[0], grpc.StatusCode.CANCELLED)
        late = Watch(m, timeout=0.3)
        got = late.next()
        if got == SERVING:  # that came in time
            got = late.next()
        expect(got[0], grpc.StatusCode.DEADLINE_EXCEEDED)
        nonsense = caller.channel.unary_stream(HEALTH + "Watch")(b"\xff", timeout=WAIT_S)
        try:
            next(nonsense)
            raise Failure("nonsense is answered")
        except grpc.RpcError as e:
            expect(e.code(), grpc.StatusCode.INTERNAL)
        expect(check(caller), SERVING)
        known.expect_quiet()
        unknown.expect_quiet()
        m.proc.send_signal(signal.SIGTERM)
        expect(known.next()[0], grpc.StatusCode.UNAVAILABLE)
        expect(unknown.next()[0], grpc.StatusCode.UNAVAILABLE)
        m.stop()
        return "told once, and of the end"


@test("health-while-defragmenting", 8)
def defragmenting(target):
    """With the setting, by each of its names, whoever watches is told of the pause."""
    gates = [["--experimental-stop-grpc-service-on-defrag"]]
    if not target.is_etcd:
        gates += [["--feature-gates", "StopGRPCServiceOnDefrag=true"],
                  ["--feature-gates", "AllAlpha=true"]]
    for flags in gates:
        with Cluster(target, 1, flags).start() as cluster:
            m = cluster.members[0]
            caller = Caller(m)
            watches = [Watch(m) for _ in range(3)]
            unknown = Watch(m, "other")
            unknown.expect(SERVICE_UNKNOWN)
            for w in watches:
                w.expect(SERVING)
            for _ in range(3):
                caller.must(MAINT + "Defragment", b"")
                for w in watches:
                    w.expect(NOT_SERVING, SERVING)
            expect(check(caller), SERVING)
            unknown.expect_quiet()
            # a client that does not wait for the end changes nothing
            hurried = caller.channel.unary_unary(MAINT + "Defragment").future(b"", timeout=WAIT_S)
            hurried.cancel()
            caller.must(MAINT + "Defragment", b"")
            until("it is serving again", lambda: check(caller) == SERVING)
            cluster.stop()
    return f"{len(gates)} names"


@test("health-without-leader", 12)
def without_leader(target):
    """Losing the leader, and finding one again, is not told: /health is for that."""
    with Cluster(target, 3).start() as cluster:
        stays = cluster.pick("follower")
        others = [m for m in cluster.members if m is not stays]
        w = Watch(stays)
        w.expect(SERVING)
        caller = Caller(stays)
        role = "etcd" if target.is_etcd else "raftd"
        stopped = [(m, m.pause([role])) for m in others]
        caller.metadata = [("hasleader", "true")]
        until("the leader is missed", lambda: caller.call(
            KV + "Range", msg((1, "a"), (7, 1)))[0] ==
            (grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader"))
        caller.metadata = []
        expect(check(caller), SERVING)
        for m, pids in stopped:
            m.resume(pids)
        cluster.wait_healthy()
        expect(check(caller), SERVING)
        w.expect_quiet()
        w.call.cancel()
        cluster.stop()
        return "nothing told"


@test("health-of-a-learner", 6)
def of_a_learner(target):
    with Cluster(target, 1).start() as cluster:
        first = Caller(cluster.members[0])
        m = Member(cluster, "n2")
        first.must(CLUSTER + "MemberAdd", msg((1, m.peer_url), (2, 1)))
        m.state = "existing"
        cluster.members.append(m)
        m.start()
        caller = Caller(m)

        def knows():
            outcome, answer = caller.call(MAINT + "Status", b"")
            return outcome[0] == grpc.StatusCode.OK and fields_of(answer).get(10) == [1]
        until("the learner has heard that it is one", knows)
        refusal = "etcdserver: rpc not supported for learner"
        expect(check(caller)[1], refusal)
        expect(Watch(m).next()[1], refusal)
        cluster.stop()
        return refusal
