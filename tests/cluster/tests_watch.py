"""Watches through everything that can happen to a member: every event is checked against history."""

import os
import queue
import random
import re
import resource
import signal
import subprocess
import threading
import urllib.request

import etcd3
import grpc
from etcd3.etcdrpc import rpc_pb2 as pb

from harness import Cluster, Failure, until
from raw_watch import RawWatch
from tests import bulk_put, side_by_side, test
from watch_stream import Response, WatchStream

PREFIX, PREFIX_END = b"w/", b"w0"


def changes(client, rng, count=1):
    """Some writes below the prefix: puts, deletions, several keys in a txn. Failed calls are fine."""
    for _ in range(count):
        keys = rng.sample(range(20), 4)
        what = rng.random()
        try:
            if what < 0.7:
                client.put(b"w/%d" % keys[0], b"v%d" % rng.randrange(1 << 30), timeout=3)
            elif what < 0.85:
                client.kv.DeleteRange(pb.DeleteRangeRequest(key=b"w/%d" % keys[0]), timeout=3)
            else:
                client.kv.Txn(pb.TxnRequest(success=[
                    pb.RequestOp(request_put=pb.PutRequest(
                        key=b"w/%d" % k, value=b"t%d" % rng.randrange(1 << 30)))
                    for k in keys]), timeout=3)
        except grpc.RpcError:
            pass


class Writers:
    """A client per member that never stops."""

    def __init__(self, members):
        self.stop = threading.Event()
        self.rounds = 0
        self.threads = [threading.Thread(target=self._run, args=(m, i), daemon=True)
                        for i, m in enumerate(members)]
        for t in self.threads:
            t.start()

    def _run(self, member, seed):
        rng = random.Random(seed)
        with member.client() as client:
            while not self.stop.is_set():
                changes(client, rng)
                self.rounds += 1

    def wait_more(self, count):
        want = self.rounds + count
        until(f"{count} more writes", lambda: self.rounds >= want, 60)

    def finish(self):
        self.stop.set()
        for t in self.threads:
            t.join()


class Follower:
    """Watches as a careful client does: when the stream ends, from after the last event on. What one
    response says is never taken apart."""

    def __init__(self, member, start=1, **kw):
        self.member, self.kw = member, kw
        self.next = start
        self.events = []
        self.streams = 0
        self.split = None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _take(self, r):
        if not r.events:
            return
        first = r.events[0].revision
        if first < self.next and self.split is None:
            self.split = f"revision {first} came again, or in two responses (next {self.next})"
        self.events += r.events
        self.next = r.events[-1].revision + 1

    def _run(self):
        while not self.stop.is_set():
            self.streams += 1
            with WatchStream(self.member.address) as s:
                s.create(key=PREFIX, range_end=PREFIX_END, start_revision=self.next, **self.kw)
                while not self.stop.is_set():
                    try:
                        r = s.responses.get(timeout=0.2)
                    except queue.Empty:
                        continue
                    if r is None or isinstance(r, grpc.RpcError):
                        break
                    if r.canceled:
                        self.split = f"canceled: {r.all()}"
                        self.stop.set()
                        break
                    self._take(r)
            self.stop.wait(0.05)

    def finish(self):
        self.stop.set()
        self.thread.join()


def history(member, upto):
    """All events below the prefix, as a fresh watch from the beginning tells them."""
    f = Follower(member)
    until("all of history was read", lambda: f.next > upto or f.split)
    f.finish()
    if f.split:
        raise Failure(f.split)
    return [e.all() for e in f.events]


def last_change(cluster):
    """One more write that everybody waits for."""
    def write():
        for m in cluster.members:
            try:
                with m.client() as c:
                    return c.put(PREFIX + b"last", b"x").header.revision
            except grpc.RpcError:
                continue
        return None
    return until("a last write", write)


def check_followers(cluster, followers):
    upto = last_change(cluster)
    for f in followers:
        until(lambda f=f: f"a watcher of {f.member.name} got everything: stands at {f.next}, "
              f"not {upto}", lambda f=f: f.next > upto or f.split, 60)
        f.finish()
    truth = None
    for m in cluster.members:
        log = history(m, upto)
        if truth is None:
            truth = log
        elif truth != log:
            raise Failure(f"{m.name} tells another history")
    for f in followers:
        if f.split:
            raise Failure(f"{f.member.name}: {f.split}")
        got = [e.all() for e in f.events]
        if got != truth:
            where = next((i for i, (a, b) in enumerate(zip(got, truth)) if a != b),
                         min(len(got), len(truth)))
            raise Failure(f"{f.member.name}: {len(got)} events, not {len(truth)}; the first that "
                          f"differs is {where}: {got[where:where + 1]} {truth[where:where + 1]}")
    return f"{len(truth)} events, {sum(f.streams for f in followers)} streams"


def watch_through(target, disturb, n=3, flags=()):
    with Cluster(target, n, flags).start() as cluster:
        followers = [Follower(m) for m in cluster.members for _ in range(2)]
        writers = Writers(cluster.members)
        writers.wait_more(30)
        disturb(cluster, writers)
        writers.wait_more(30)
        cluster.wait_healthy()
        writers.finish()
        line = check_followers(cluster, followers)
        cluster.stop()
        return line


def kill_each(role):
    def disturb(cluster, writers):
        for _ in range(2):
            for m in cluster.members:
                m.kill_and_recover(role)
                writers.wait_more(20)
    return disturb


@test("watch-through-kills-of-stored", 14)
def kills_of_stored(target):
    return watch_through(target, kill_each("stored"))


@test("watch-through-kills-of-gatewayd", 14)
def kills_of_gatewayd(target):
    return watch_through(target, kill_each("gatewayd"))


@test("watch-through-leader-changes", 14)
def leader_changes(target):
    def disturb(cluster, writers):
        for _ in range(4):
            leader = cluster.wait_leader()
            leader.kill("raftd")
            writers.wait_more(20)
            leader.wait_healthy()
    return watch_through(target, disturb)


@test("watch-through-chaos", 25)
def watch_chaos(target):
    """Any process of any member, killed or paused, several at a time."""
    seed = int(os.environ.get("WATCH_SEED", random.SystemRandom().randrange(1 << 30)))
    rng = random.Random(seed)

    def disturb(cluster, writers):
        for _ in range(6):
            paused = None
            for m in rng.sample(cluster.members, 2):
                if target.is_etcd or rng.random() < 0.3:
                    m.kill("supervisor")
                elif rng.random() < 0.3 and paused is None:
                    paused = m, m.pause([rng.choice(["raftd", "stored", "gatewayd"])])
                else:
                    m.kill(rng.choice(["raftd", "stored", "gatewayd"]))
            writers.wait_more(5)
            if paused:
                paused[0].resume(paused[1])
            cluster.wait_healthy()
            writers.wait_more(20)
    try:
        return f"seed {seed}: {watch_through(target, disturb)}"
    except Failure as e:
        raise Failure(f"WATCH_SEED={seed}: {e}") from e


@test("watch-stream-survives-stored", 6)
def stream_survives(target):
    """gatewayd hides a restart of stored: the stream goes on, nothing is missing or doubled."""
    with Cluster(target, 1).start() as cluster:
        member = cluster.members[0]
        with WatchStream(member.address) as s, member.client() as c:
            s.create(key=b"a")
            s.create(key=b"b", prev_kv=True)
            s.create(key=b"future", start_revision=8)
            for _ in range(3):
                s.next()
            c.put("a", "1")  # 2
            s.next()
            for i in range(3):
                member.kill("stored")
                s.create(key=b"c", watch_id=10 + i)  # while it is down
                s.cancel(10 + i)
                member.wait_healthy()
                if not s.next().created or not s.next().canceled:
                    raise Failure("a watcher of the time without stored")
            c.put("b", "1")       # 3
            c.put("b", "2")       # 4
            c.put("a", "2")       # 5
            c.put("future", "x")  # 6
            c.put("future", "y")  # 7
            c.put("future", "z")  # 8
            seen = sorted((r.watch_id, e.revision) for r in (s.next() for _ in range(4))
                          for e in r.events)
            if seen != [(0, 5), (1, 3), (1, 4), (2, 8)]:
                raise Failure(f"got {seen}")
            s.progress()
            r = s.next()
            if r.watch_id != -1 or r.revision != 8:
                raise Failure(f"progress: {r.all()}")
        cluster.stop()
        return "one stream through 3 kills"


@test("watch-quiet-key-through-compaction-and-restart", 6)
def quiet_key(target):
    """A watcher of a key that nobody changes is not behind a compaction, also not after a restart."""
    with Cluster(target, 1).start() as cluster:
        member = cluster.members[0]
        with WatchStream(member.address) as s, member.client() as c:
            s.create(key=b"quiet")
            s.next()
            for i in range(200):
                revision = c.put("busy", f"{i}").header.revision
            c.kv.Compact(pb.CompactionRequest(revision=revision, physical=True))
            member.kill_and_recover("stored")
            c.put("quiet", "now")
            r = s.next()
            if r.canceled or r.events[0].kv.value != b"now":
                raise Failure(f"{r.all()}")
        cluster.stop()
        return "still there"


@test("watch-through-a-snapshot", 25)
def through_a_snapshot(target):
    """A member is so late that it gets a snapshot; its watchers miss nothing of that."""
    with Cluster(target, 3, ["--snapshot-count", "1000"]).start() as cluster:
        late = cluster.pick("follower")
        others = [m for m in cluster.members if m is not late]
        followers = [Follower(late), Follower(others[0])]
        rng = random.Random(5)
        with others[0].client() as c:
            changes(c, rng, 50)
        stream = WatchStream(late.address)
        stream.create(key=b"bulk/", range_end=b"bulk0")
        stream.next()
        pids = late.pause(["supervisor"])
        if not target.is_etcd:
            # stopped, it would find much of what it missed in its sockets; nobody starts it anew yet
            late.signal("raftd", signal.SIGKILL)
        done = bulk_put(cluster.wait_leader(others), 30000, 20)
        if done < 30000:
            raise Failure(f"only {done} of 30000 puts were answered")
        if not target.is_etcd:
            until("the others drop the older log", lambda: min(
                max([0] + [int(i) for i in re.findall(r"the log begins at (\d+)", m.log())])
                for m in others) > 20000, 60)
        with others[0].client() as c:
            changes(c, rng, 50)
        late.resume(pids)
        revisions = []
        while len(revisions) < done:
            revisions += [e.revision for e in stream.next(60).events]
        if revisions != sorted(set(revisions)):
            raise Failure("bulk events are doubled or out of order")
        stream.close()
        line = check_followers(cluster, followers)
        if not target.is_etcd and "activated the received state" not in late.log():
            raise Failure("there was no snapshot")
        cluster.stop()
        return f"{line}, {len(revisions)} in bulk"


@test("watch-etcdctl-and-python", 10)
def etcdctl_and_python(target):
    """Debian's clients, through a kill of stored and one of gatewayd."""
    with Cluster(target, 1).start() as cluster:
        member = cluster.members[0]
        env = dict(os.environ, ETCDCTL_API="3")
        python = etcd3.client(host="127.0.0.1", port=member.client_port)
        events, cancel = python.watch_prefix("w/")
        got = []
        reader = threading.Thread(target=lambda: got.extend(
            (e.key, e.value, e.mod_revision) for e in events), daemon=True)
        reader.start()
        with subprocess.Popen(["etcdctl", f"--endpoints={member.address}", "watch", "--rev=1",
                               "-w", "fields", "--prefix", "w/"], env=env,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p, \
                member.client() as c:
            lines = []
            threading.Thread(target=lambda: lines.extend(p.stdout), daemon=True).start()

            def printed():
                return [int(m) for m in re.findall(r'"ModRevision" : (\d+)', "".join(lines))]
            want = []

            def write(count):
                for _ in range(count):
                    want.append(c.put(f"w/{len(want)}", "v").header.revision)
                until(lambda: f"etcdctl printed {len(want)} events: {printed()}",
                      lambda: len(printed()) >= len(want))
            def connected():
                try:
                    return c.status()
                except grpc.RpcError:
                    return None
            try:
                write(20)
                member.kill_and_recover("stored")
                until("the client is connected again", connected)
                write(20)
                until("python3-etcd3 got its events", lambda: len(got) >= 40)
                if [g[2] for g in got] != want:
                    raise Failure(f"python3-etcd3 got {got}")
                cancel()
                member.kill_and_recover("gatewayd")
                until("the client is connected again", connected)
                write(20)
                if printed() != want:
                    raise Failure(f"etcdctl printed {printed()}, not {want}")
                p.send_signal(signal.SIGINT)
            finally:
                p.kill()  # or the with statement waits for it
        cluster.stop()
        return "60 events"


@test("watch-stalled-clients", 20)
def stalled_clients(target):
    """Clients that take nothing hold little memory, delay nobody, and get everything later."""
    with Cluster(target, 1).start() as cluster:
        member = cluster.members[0]
        value = "x" * 4000
        stalled = [WatchStream(member.address) for _ in range(20)]
        for s in stalled:
            s.create(key=b"w/", range_end=b"w0")
            s.next()
            s.pause()
        follower = Follower(member)
        with member.client() as c:
            for i in range(3000):
                c.put(f"w/{i % 50}", value)
        upto = last_change(cluster)
        until("the other watcher is not delayed", lambda: follower.next > upto)
        follower.finish()
        used = 0 if target.is_etcd else max(resident(member.pid(role))
                                            for role in ("gatewayd", "stored"))
        if used > 200 << 20:
            raise Failure(f"{used >> 20} MiB are in use")
        truth = [e.all() for e in follower.events]
        for s in stalled:
            s.resume()
            events = []
            while not events or events[-1].revision < upto:
                events += s.next().events
            if [e.all() for e in events] != truth:
                raise Failure("a stalled client did not get everything")
            s.close()
        cluster.stop()
        return f"{len(truth)} events to 20 stalled clients, {used >> 20} MiB"


@test("watch-a-thousand-stalled-clients", 20)
def a_thousand_stalled_clients(target):
    """They take nothing and are canceled; each is told where it can go on, and nothing is missing
    there. Live watchers and writers do not notice."""
    count, puts, value = 1000, 100, b"x" * 6000
    want_descriptors(count + 500)
    flags = [] if target.is_etcd else ["--watch-stall-timeout", "6s"]
    with Cluster(target, 1, flags).start() as cluster:
        member = cluster.members[0]
        before = 0 if target.is_etcd else gateway_and_store(member)
        stalled = [RawWatch(member, 1000, key=PREFIX, range_end=PREFIX_END) for _ in range(count)]
        begin = {s.next().revision + 1 for s in stalled}
        if begin != {2}:
            raise Failure(f"the watchers begin at {begin}")
        followers = [Follower(member) for _ in range(2)]
        with member.client() as c:
            for i in range(puts):
                c.put(PREFIX + b"%d" % (i % 50), value, timeout=30)
        upto = last_change(cluster)
        for f in followers:
            until("the live watchers are not delayed", lambda f=f: f.next > upto or f.split, 120)
        used = 0
        if not target.is_etcd:
            used = gateway_and_store(member) - before
            if used > 200 << 20:  # nobody's queue is longer than a window; all of it is 600 MB
                raise Failure(f"{used >> 20} MiB are in use")
            until("the stalled watchers are canceled",
                  lambda: metric(member, "etcd_debugging_mvcc_watcher_total") == len(followers), 120)
        line = check_followers(cluster, followers)
        upto = last_change(cluster)
        truth = history(member, upto)
        lengths = [check_stalled(s, truth, upto, target) for s in stalled]
        cluster.stop()
        return (f"{line}; {count} stalled clients, {used >> 20} MiB, {min(lengths)} to "
                f"{max(lengths)} events before they were canceled")


@test("watch-large-revision-for-many", 20)
def large_revision_for_many(target):
    """A deletion of very many keys is one response to each of many watchers; it is kept once for
    those who do not take it, and everyone gets all of it, in one piece."""
    count, keys, pad = 200, 20000, b"k" * 150
    want_descriptors(count + 500)
    with Cluster(target, 1, ["--max-txn-ops", "2000"]).start() as cluster:
        member = cluster.members[0]
        with member.client() as c:
            for i in range(0, keys, 2000):
                c.kv.Txn(pb.TxnRequest(success=[pb.RequestOp(request_put=pb.PutRequest(
                    key=PREFIX + b"%06d" % k + pad, value=b"v")) for k in range(i, i + 2000)]),
                    timeout=30)
            revision = c.put("other", "x").header.revision
            before = 0 if target.is_etcd else gateway_and_store(member)
            watches = [RawWatch(member, 1000, key=PREFIX, range_end=PREFIX_END,
                                prev_kv=i % 20 == 19) for i in range(count)]
            for w in watches:
                w.next()
            live = RawWatch(member, 1 << 20, key=PREFIX, range_end=PREFIX_END)
            live.next()
            live.open_window(64 << 20)
            c.kv.DeleteRange(pb.DeleteRangeRequest(key=PREFIX, range_end=PREFIX_END), timeout=30)
            c.put(PREFIX + b"after", "x")
            first = {False: check_large(live, revision + 1, keys)}
            live.close()
            used = 0
            if not target.is_etcd:
                until("everyone was sent the revision", lambda: metric(
                    member, "etcd_debugging_mvcc_events_total") >= keys * (count + 1), 120)
                used = gateway_and_store(member) - before
                if used > 100 << 20:  # a copy for each is 1 GB
                    raise Failure(f"{used >> 20} MiB are in use")
            for i, w in enumerate(watches):
                w.open_window(64 << 20)
                if (i % 20 == 19) not in first:
                    first[i % 20 == 19] = check_large(w, revision + 1, keys)
                elif (w.next_bytes(), w.next_bytes()) != first[i % 20 == 19]:
                    raise Failure("two watchers of the same were told different things")
                w.close()
        cluster.stop()
        return f"{keys} events in one revision to {count} watchers, {used >> 20} MiB"


def check_large(watch, revision, keys):
    """One response with all of the revision, then the next revision. Returns their bytes."""
    both = watch.next_bytes(), watch.next_bytes()
    r, after = map(Response, both)
    if len(r.events) != keys or any(e.revision != revision or not e.is_delete for e in r.events):
        raise Failure(f"{len(r.events)} events of {keys} in the response for revision {revision}")
    if [e.kv.key[2:8] for e in r.events] != [b"%06d" % k for k in range(keys)]:
        raise Failure("events are doubled, missing or out of order")
    if len(after.events) != 1 or after.events[0].revision != revision + 1:
        raise Failure(f"what follows: {after.all()}")
    return both


def want_descriptors(count):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


def gateway_and_store(member):
    return sum(resident(member.pid(role)) for role in ("gatewayd", "stored"))


def metric(member, name):
    with urllib.request.urlopen(member.client_url + "/metrics", timeout=30) as r:
        return next(float(line.split()[1]) for line in r.read().decode().splitlines()
                    if line.startswith(name + " "))


def check_stalled(watch, truth, upto, target):
    """Reads what it was sent, goes on where it was told, and has all of the truth then. How much there
    was before the end of the watcher?"""
    events, went_on = [], None
    watch.open_window(64 << 20)
    while not events or events[-1].revision < upto:
        r = watch.next()
        if r.canceled:
            told = re.fullmatch(r".*; it can go on at revision (\d+)", r.cancel_reason)
            if not told or went_on is not None:
                raise Failure(f"canceled: {r.all()}")
            if events and events[-1].revision >= int(told[1]):
                raise Failure(f"had {events[-1].revision}, can go on at {told[1]}")
            went_on = len(events)
            watch.create(key=PREFIX, range_end=PREFIX_END, start_revision=int(told[1]))
        events += r.events
    if [e.all() for e in events] != truth:
        raise Failure(f"a stalled client got {len(events)} events, not the {len(truth)} there are")
    if went_on is None and not target.is_etcd:
        raise Failure("a stalled client was not canceled")
    watch.close()
    return len(events) if went_on is None else went_on


def resident(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@test("watch-fragments", 6)
def fragments(target):
    with Cluster(target, 1, ["--max-request-bytes", "1000000", "--max-txn-ops", "2000"]).start() \
            as cluster:
        member = cluster.members[0]
        with WatchStream(member.address) as whole, WatchStream(member.address) as parts, \
                member.client() as c:
            whole.create(key=PREFIX, range_end=PREFIX_END, prev_kv=True)
            parts.create(key=PREFIX, range_end=PREFIX_END, prev_kv=True, fragment=True)
            whole.next(), parts.next()
            for i in range(60):
                c.put(f"w/{i:03}", "v" * 90000)
                whole.next(), parts.next()
            c.kv.DeleteRange(pb.DeleteRangeRequest(key=PREFIX, range_end=PREFIX_END))
            one = whole.next()
            if len(one.events) != 60 or one.fragment:
                raise Failure(f"{len(one.events)} events in one response")
            got, count = [], 0
            while True:
                r = parts.next()
                count += 1
                got += r.events
                if r.size > 1000000 + (512 << 10) + 1000:
                    raise Failure(f"a fragment of {r.size} bytes")
                if not r.fragment:
                    break
            if [e.all() for e in got] != [e.all() for e in one.events] or count < 3:
                raise Failure(f"{len(got)} events in {count} fragments")
        cluster.stop()
        return f"{count} fragments"


@test("watch-progress-notify", 6)
def progress_notify(target):
    with Cluster(target, 1, ["--experimental-watch-progress-notify-interval", "200ms"]).start() \
            as cluster:
        member = cluster.members[0]
        with WatchStream(member.address) as s, member.client() as c:
            s.create(key=b"a", progress_notify=True)
            s.create(key=b"b")
            s.next(), s.next()
            revision = c.put("other", "x").header.revision
            for _ in range(3):
                r = s.next()
                if r.events or r.watch_id != 0 or r.created or r.canceled:
                    raise Failure(f"{r.all()}")
            if r.revision != revision:
                raise Failure(f"progress tells revision {r.revision}, not {revision}")
            c.put("b", "x")
            while not (r := s.next()).events:
                pass
            if r.watch_id != 1:
                raise Failure(f"{r.all()}")
        cluster.stop()
        return "told"


@test("watch-requires-a-leader", 12)
def requires_leader(target):
    with Cluster(target, 3).start() as cluster:
        member = cluster.members[0]
        metadata = (("hasleader", "true"),)
        with WatchStream(member.address, metadata) as picky, WatchStream(member.address) as other, \
                member.client() as c:
            for s in (picky, other):
                s.create(key=b"a")
                s.next()
            pids = [m.pause(["supervisor"] if target.is_etcd else ["raftd"])
                    for m in cluster.members[1:]]
            e = picky.ended()
            if e is None or e.code() != grpc.StatusCode.UNAVAILABLE or \
                    e.details() != "etcdserver: no leader":
                raise Failure(f"it ended with {e!r}")
            with WatchStream(member.address, metadata) as late:
                late.create(key=b"a")
                e = late.ended()
                if e is None or e.details() != "etcdserver: no leader":
                    raise Failure(f"a new one ended with {e!r}")
            for m, p in zip(cluster.members[1:], pids):
                m.resume(p)

            def written():
                try:
                    return c.put("a", "1")
                except grpc.RpcError:
                    return None
            until("writes go on", written)
            if other.next().events[0].kv.value != b"1":
                raise Failure("the other stream")
        cluster.stop()
        return "ended"


# Bytes that are no WatchRequest: the stream ends, the member stays.
NONSENSE = [b"\xff", b"\x0a\x05a", b"\x08\x01", b"\x0a\x02\x08\x01", b"\x0a\x02\x1a\x00",
            b"\x0a\x03\x2a\x01\x80", b"\x12\x02\x0a\x00", b"\x0a\x80\x80\x80\x80\x80\x80\x80",
            b"\x0a\x05\x2d\x00\x00\x00\x00"]


@test("watch-nonsense", 4)
def nonsense(target):
    with Cluster(target, 1).start() as cluster:
        member = cluster.members[0]
        with WatchStream(member.address) as steady, member.client() as c:
            steady.create(key=b"a")
            steady.next()
            for data in NONSENSE:
                with WatchStream(member.address) as s:
                    s.create(key=b"a")
                    s.next()
                    s.send(data)
                    e = s.ended()
                    if e is None or e.code() != grpc.StatusCode.INTERNAL:
                        raise Failure(f"{data!r} ended the stream with {e!r}")
            for _ in range(50):  # clients that leave in the middle of everything
                with WatchStream(member.address) as s:
                    for i in range(20):
                        s.create(key=b"a", start_revision=i % 3)
                        s.cancel(i - 3)
            c.put("a", "1")
            if steady.next().events[0].kv.value != b"1":
                raise Failure("the other stream")
        cluster.stop()
        return f"{len(NONSENSE)} kinds"


@test("compat-watch", 25)
def compat_watch(target):
    return side_by_side("compare_watch.py")
