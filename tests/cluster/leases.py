"""Leases and locks through kills, pauses and restarts.

A Holder keeps a lease alive through one member and knows until when the newest answer promised it:
the time before the renewal was sent plus the TTL it was answered with. Nobody may see the lease or its
key gone before that. How late a lease ends is not measured, only that it does.
"""

import collections
import threading
import time

import grpc
from etcd3.etcdrpc import rpc_pb2 as pb
from etcd3.etcdrpc import rpc_pb2_grpc as stubs

from h2_pipeline import Pipeline
from harness import Client, Cluster, Failure, until
from protobuf_wire import field, fields_of, msg
from tests import test

TTL_S = 4


class Holder:
    def __init__(self, watchers, member, lease_id):
        self.member, self.id = member, lease_id
        self.key = f"hold/{lease_id}".encode()
        self.watchers = watchers  # members asked whether the key is there
        self.renewals = 0
        self.grants = 0
        self.promised = 0.0  # monotonic
        self.early = None
        self.letting_go = threading.Event()
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._renew, daemon=True),
                        threading.Thread(target=self._look, daemon=True)]
        for t in self.threads:
            t.start()

    def _grant(self, lease, kv):
        lease.LeaseGrant(pb.LeaseGrantRequest(TTL=TTL_S, ID=self.id), timeout=5)
        kv.Put(pb.PutRequest(key=self.key, value=b"x", lease=self.id), timeout=5)
        self.grants += 1

    def _renew_once(self, lease):
        sent = time.monotonic()
        answer = next(iter(lease.LeaseKeepAlive(
            iter([pb.LeaseKeepAliveRequest(ID=self.id)]), timeout=3)))
        if answer.TTL > 0:
            self.promised = max(self.promised, sent + answer.TTL)
            self.renewals += 1
            return True
        if time.monotonic() < self.promised:
            self.early = f"lease {self.id} was gone {self.promised - time.monotonic():.2f} s early"
        return False

    def _renew(self):
        with Client(self.member) as client:
            lease, held = stubs.LeaseStub(client.channel), False
            while not self.letting_go.is_set():
                try:
                    if not held:
                        self._grant(lease, client.kv)
                    held = self._renew_once(lease)
                except grpc.RpcError as e:
                    if "already exists" in (e.details() or ""):
                        held = True
                    elif "lease not found" in (e.details() or ""):
                        held = False
                self.letting_go.wait(0.2)

    def _look(self):
        clients = [Client(m) for m in self.watchers]
        turn = 0
        while not self.stopping.is_set():
            turn += 1
            promised, renewals = self.promised, self.renewals
            try:
                record, _ = clients[turn % len(clients)].get(self.key, timeout=3)
                if record is None and renewals > 0 and time.monotonic() < promised:
                    self.early = (f"{self.key} was gone {promised - time.monotonic():.2f} s early,"
                                  f" asked {clients[turn % len(clients)]}")
            except grpc.RpcError:
                pass
            self.stopping.wait(0.05)
        for c in clients:
            c.close()

    def check(self):
        if self.early:
            raise Failure(self.early)

    def is_gone(self):
        self.check()
        try:
            with Client(self.watchers[0]) as client:
                return client.get(self.key)[0] is None
        except grpc.RpcError:
            return False


class Holders:
    def __init__(self, members, count=6):
        self.all = [Holder(members, members[i % len(members)], 7000 + i) for i in range(count)]

    def renew_more(self, n, members=None):
        """Everybody (at these members) renews n times more, and nobody saw anything end early."""
        some = [h for h in self.all if members is None or h.member in members]
        wanted = {h: h.renewals + n for h in some}

        def done():
            for h in self.all:
                h.check()
            return all(h.renewals >= w for h, w in wanted.items())

        until(lambda: f"{n} more renewals: {[(h.member.name, h.renewals) for h in some]}", done, 60)

    def finish(self):
        for h in self.all:
            h.letting_go.set()
        for h in self.all:
            h.threads[0].join()
        until("every lease ends when nobody renews it", lambda: all(h.is_gone() for h in self.all), 60)
        for h in self.all:
            h.stopping.set()
            h.threads[1].join()
            h.check()
        return (f"{sum(h.renewals for h in self.all)} renewals, "
                f"{sum(h.grants for h in self.all)} grants")


def finish(cluster, holders, text=""):
    summary = holders.finish()
    cluster.check_equal()
    cluster.stop()
    return text + summary


@test("lease-kill-leader-of-3", 20)
def lease_kill_leader(target):
    with Cluster(target, 3).start() as cluster:
        holders = Holders(cluster.members)
        holders.renew_more(5)
        for role in ("raftd", "stored", "gatewayd", "supervisor"):
            victim = cluster.leader()
            victim.kill(role)
            holders.renew_more(5, [m for m in cluster.members if m is not victim])
            victim.wait_healthy()
            holders.renew_more(5)
        return finish(cluster, holders)


@test("lease-pause-leader-of-3", 20)
def lease_pause_leader(target):
    """The leader stops for longer than an election; what it believed when it goes on counts for nothing."""
    with Cluster(target, 3).start() as cluster:
        holders = Holders(cluster.members)
        holders.renew_more(5)
        for roles in (("raftd", "stored", "gatewayd"), ("raftd",), ("stored",)):
            victim = cluster.leader()
            others = [m for m in cluster.members if m is not victim]
            pids = victim.pause(roles)
            if "raftd" in roles:  # else it leads on, and nobody can renew until it goes on
                holders.renew_more(8, others)
            victim.resume(pids)
            victim.wait_healthy()
            holders.renew_more(5)
        return finish(cluster, holders)


@test("lease-restart-of-1", 15)
def lease_restart_single(target):
    with Cluster(target, 1).start() as cluster:
        holders = Holders(cluster.members, 3)
        member = cluster.members[0]
        holders.renew_more(5)
        for role in ("raftd", "stored"):
            member.kill_and_recover(role)
            holders.renew_more(5)
        member.stop()
        member.start()
        member.wait_healthy()
        holders.renew_more(5)
        return finish(cluster, holders)


# ---- a counter that only whoever holds the lock changes ----

class Counting:
    def __init__(self, members, clients=6):
        self.acked = collections.Counter()
        self.unknown = 0
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(members[i % len(members)], i),
                                         daemon=True) for i in range(clients)]
        for t in self.threads:
            t.start()

    def _increment(self, client, lock, unlock, lease, who, turn):
        lease_id = 90000 + who * 10000 + turn
        lease.LeaseGrant(pb.LeaseGrantRequest(TTL=TTL_S, ID=lease_id), timeout=5)
        key = fields_of(lock(msg((1, b"mutex"), (2, lease_id)), timeout=20))[2][0]
        try:
            record, _ = client.get(key)
            counter, _ = client.get("counter")
            if record is None:
                return False  # it ended meanwhile: not ours any more
            value = int(counter.value) if counter else 0
            own = pb.Compare(result=pb.Compare.EQUAL, target=pb.Compare.CREATE, key=key,
                             create_revision=record.create_revision)
            put = pb.RequestOp(request_put=pb.PutRequest(key=b"counter", value=b"%d" % (value + 1)))
            try:
                return client.kv.Txn(pb.TxnRequest(compare=[own], success=[put]), timeout=10).succeeded
            except grpc.RpcError:
                with self.lock:
                    self.unknown += 1
                return False
        finally:
            try:
                unlock(field(1, key), timeout=5)
            except grpc.RpcError:
                pass  # the lease ends some time; what the increment came to is known all the same

    def _run(self, member, who):
        turn = 0
        with Client(member) as client:
            lock = client.channel.unary_unary("/v3lockpb.Lock/Lock")
            unlock = client.channel.unary_unary("/v3lockpb.Lock/Unlock")
            lease = stubs.LeaseStub(client.channel)
            while not self.stopping.is_set():
                turn += 1
                try:
                    if self._increment(client, lock, unlock, lease, who, turn):
                        with self.lock:
                            self.acked[member] += 1
                except grpc.RpcError:
                    self.stopping.wait(0.05)

    def count_more(self, n, members=None):
        some = lambda: sum(v for m, v in self.acked.items() if members is None or m in members)
        wanted = some() + n
        until(lambda: f"{n} more increments, {some()} of {wanted}", lambda: some() >= wanted, 60)

    def finish(self, member):
        self.stopping.set()
        for t in self.threads:
            t.join()
        with Client(member) as client:
            value = int(client.get("counter")[0].value)
        acked = sum(self.acked.values())
        if not acked <= value <= acked + self.unknown:
            raise Failure(f"the counter is {value} after {acked} increments and {self.unknown} unknown")
        return f"{acked} increments, {self.unknown} unknown"


@test("lock-counter-of-3", 25)
def lock_counter(target):
    with Cluster(target, 3).start() as cluster:
        counting = Counting(cluster.members)
        counting.count_more(30)
        for role in ("raftd", "stored", "gatewayd"):
            victim = cluster.leader()
            victim.kill(role)
            counting.count_more(10, [m for m in cluster.members if m is not victim])
            victim.wait_healthy()
        victim = cluster.leader()
        pids = victim.pause(("raftd", "stored", "gatewayd"))
        counting.count_more(10, [m for m in cluster.members if m is not victim])
        victim.resume(pids)
        victim.wait_healthy()
        counting.count_more(20)
        summary = counting.finish(cluster.members[0])
        cluster.check_equal()
        cluster.stop()
        return summary


# ---- very many that end together ----

MANY = 100000
MANY_PER_TXN = 125
# Nobody may be elected, however busy the machine is: that is what is looked at.
PATIENT = ("--heartbeat-interval", "300", "--election-timeout", "3000")


class Putter:
    """Puts to a key of its own, one after the other; none may fail."""

    def __init__(self, member, name):
        self.member, self.key = member, name
        self.count, self.slowest, self.error = 0, 0.0, None
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        with Client(self.member) as client:
            while not self.stopping.is_set() and self.error is None:
                began = time.monotonic()
                try:
                    client.put(self.key, b"%d" % self.count, timeout=10)
                except grpc.RpcError as e:
                    self.error = f"put {self.count} at {self.member.name}: {e.code()} {e.details()}"
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.count += 1
                self.stopping.wait(0.005)

    def check(self):
        if self.error:
            raise Failure(self.error)

    def finish(self):
        self.stopping.set()
        self.thread.join()
        self.check()


def _many_key(lease_id):
    return b"many/%d" % lease_id


def _grant(lease_id, ends):
    """A moment of an end for all: each second that goes by, the TTL is one less."""
    return field(1, max(2, round(ends - time.monotonic()))) + field(2, lease_id)


def _attaching(ids):
    put = lambda i: field(2, field(1, _many_key(i)) + field(2, b"v") + field(3, i))
    return b"".join(field(2, put(i)) for i in ids)


def _grant_with_keys(pipe, ids, ends):
    """Leases that end then, and a key on each; those that have one."""
    held = []
    for at in range(0, len(ids), MANY_PER_TXN * 8):
        some = ids[at:at + MANY_PER_TXN * 8]
        if not all(pipe.call("/etcdserverpb.Lease/LeaseGrant", [_grant(i, ends) for i in some])):
            raise Failure("a grant was refused")
        txns = [some[i:i + MANY_PER_TXN] for i in range(0, len(some), MANY_PER_TXN)]
        # on a machine that has become slow, a lease may be over by now: then these have no key
        done = pipe.call("/etcdserverpb.KV/Txn", [_attaching(t) for t in txns])
        held += [i for txn, ok in zip(txns, done) if ok for i in txn]
    return held


def _deletions(member, prefix):
    """The key of every deletion below the prefix that the event log has."""
    request = pb.WatchCreateRequest(key=prefix, range_end=prefix[:-1] + bytes((prefix[-1] + 1,)),
                                    start_revision=1, filters=[pb.WatchCreateRequest.NOPUT])
    found, done = [], threading.Event()

    def requests():
        yield pb.WatchRequest(create_request=request)
        done.wait()

    with Client(member) as client:
        client.put(prefix + b"end", b"x")
        last = client.kv.DeleteRange(pb.DeleteRangeRequest(key=prefix + b"end")).header.revision
        for answer in stubs.WatchStub(client.channel).Watch(requests(), timeout=60):
            if answer.canceled:
                raise Failure(f"the watch was canceled: {answer}")
            found += [e.kv.key for e in answer.events]
            if answer.events and answer.events[-1].kv.mod_revision >= last:
                break
        done.set()
    return found[:-1]


@test("lease-100000-at-once", 30)
def lease_many_at_once(target):
    """They end at the same moment, each with a key, while others put: nobody notices."""
    with Cluster(target, 3, PATIENT).start() as cluster:
        leader = cluster.wait_leader()
        term = leader.status().header.raft_term
        follower = next(m for m in cluster.members if m is not leader)
        ids = list(range(1, MANY + 1))
        with Pipeline(leader) as pipe:
            began = time.monotonic()
            held = _grant_with_keys(pipe, ids[:MANY // 20], began + 3)
            took = time.monotonic() - began
            # as long as it seems to take, and a third of it more
            held += _grant_with_keys(pipe, ids[MANY // 20:], time.monotonic() + 3 + 26 * took)
        putters = [Putter(m, f"put-by-{m.name}") for m in cluster.members]
        with Client(follower) as client:
            lease = stubs.LeaseStub(client.channel)

            def count():
                for p in putters:
                    p.check()
                return client.kv.Range(pb.RangeRequest(key=b"many/", range_end=b"many0", count_only=True),
                                       timeout=20).count

            began = time.monotonic()
            until(lambda: f"no key is left, {count()} are", lambda: count() == 0, 90, 0.2)
            took = time.monotonic() - began
            until("every lease is gone",
                  lambda: not lease.LeaseLeases(pb.LeaseLeasesRequest(), timeout=20).leases, 30)
        for p in putters:
            p.finish()
        now = {m.status().header.raft_term for m in cluster.members}
        if now != {term}:
            raise Failure(f"the term was {term} and is {now}")
        deleted = collections.Counter(_deletions(follower, b"many/"))
        if deleted != collections.Counter(_many_key(i) for i in held):
            twice = [k for k, n in deleted.items() if n > 1]
            raise Failure(f"{len(held)} keys, {len(deleted)} deleted, twice: {twice[:5]}")
        cluster.check_equal()
        cluster.stop()
        return (f"{len(held)} keys, gone after {took:.1f} s, {sum(p.count for p in putters)} puts, "
                f"slowest {max(p.slowest for p in putters) * 1000:.0f} ms")
