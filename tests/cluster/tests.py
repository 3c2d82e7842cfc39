"""The tests. Each is a function of a Target that raises Failure, and returns a line for the report."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import grpc
from etcd3.etcdrpc import rpc_pb2 as pb

from harness import DAEMONS, Cluster, Failure, until
from load import Load, h2load, put_body

TESTS = {}   # name -> function
WEIGHT = {}  # name -> rough seconds, so that long ones start first


def test(name, seconds=6):
    def register(fn):
        TESTS[name] = fn
        WEIGHT[name] = seconds
        return fn
    return register


def finish(cluster, load, **kw):
    summary = load.finish(**kw)
    cluster.check_equal()
    revision = cluster.members[0].contents()[1]
    cluster.stop()
    return f"{summary}, {revision} revisions"


# ---- SIGKILL of each process, under load ----

def kill_under_load(target, n, which, role):
    with Cluster(target, n).start() as cluster:
        victim = cluster.pick(which)
        others = [m for m in cluster.members if m is not victim]
        with Load(cluster.members) as load:
            load.press(victim)
            load.wait_more(60)
            for _ in range(2):
                victim.kill(role)
                if others:
                    load.wait_more(20, others)  # the others go on, or go on again
                victim.wait_healthy()
                load.wait_more(40)
            return finish(cluster, load)


def register_kill_matrix():
    for n, which in ((1, "leader"), (3, "leader"), (3, "follower")):
        for role in ("supervisor",) + DAEMONS:
            def run(target, n=n, which=which, role=role):
                return kill_under_load(target, n, which, role)
            test(f"kill-{role}-{which}-of-{n}", 9)(run)


register_kill_matrix()


@test("kill-everything-of-3", 10)
def kill_everything(target):
    """All processes of all members at once: what was acknowledged is there afterwards."""
    with Cluster(target, 3).start() as cluster:
        with Load(cluster.members) as load:
            load.wait_more(60)
            for m in cluster.members:
                for st in m.processes():
                    try:
                        os.kill(st["pid"], signal.SIGKILL)
                    except ProcessLookupError:
                        pass
            for m in cluster.members:
                m.destroy()
                m.start()
            cluster.wait_healthy()
            load.wait_more(40)
            return finish(cluster, load)


@test("rolling-restart-of-3", 14)
def rolling_restart(target):
    with Cluster(target, 3).start() as cluster:
        with Load(cluster.members) as load:
            load.wait_more(40)
            for m in cluster.members:
                m.stop()
                load.wait_more(20, [o for o in cluster.members if o is not m])
                m.start()
                m.wait_healthy()
            load.wait_more(20)
            return finish(cluster, load)


@test("chaos-of-3", 30)
def chaos(target):
    """Kills and pauses at random, several at a time. CHAOS_SEED and CHAOS_SECONDS say which."""
    seed = int(os.environ.get("CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)
    seconds = float(os.environ.get("CHAOS_SECONDS", "12"))
    rng = random.Random(seed)
    print(f"CHAOS_SEED={seed}", flush=True)
    with Cluster(target, 3, ["--snapshot-count", "2000"]).start() as cluster:
        with Load(cluster.members, clients=9, keys=9) as load:
            for m in cluster.members:
                load.press(m)
            load.wait_more(20)
            end = time.monotonic() + seconds
            paused = []  # (when to resume, member, pids)
            while time.monotonic() < end:
                m = rng.choice(cluster.members)
                role = rng.choice(DAEMONS + ("supervisor",))
                if rng.random() < 0.3 and not any(p[1] is m for p in paused):
                    roles = [role] if rng.random() < 0.7 else ["supervisor"] + list(DAEMONS)
                    pids = [pid for pid in map(m.pid, roles) if pid]
                    for pid in pids:
                        os.kill(pid, signal.SIGSTOP)
                    paused.append((time.monotonic() + rng.random() * 3, m, pids))
                elif any(p[1] is m for p in paused):
                    pass  # its supervisor may be unable to notice
                elif role == "supervisor":
                    m.kill(role)
                elif m.pid(role):
                    os.kill(m.pid(role), signal.SIGKILL)
                threading.Event().wait(rng.random() * 0.6)
                for entry in [p for p in paused if p[0] < time.monotonic()]:
                    entry[1].resume(entry[2])
                    paused.remove(entry)
            for _, m, pids in paused:
                m.resume(pids)
            cluster.wait_healthy()
            load.wait_more(20)
            return f"seed {seed}: " + finish(cluster, load, allow_timeouts=True)


# ---- a killed gatewayd refuses nobody ----

@test("gatewayd-restart-refuses-no-connection", 6)
def refuses_no_connection(target):
    if target.is_etcd:
        return "skipped: etcd has one process"
    request = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with Cluster(target, 1).start() as cluster:
        m = cluster.members[0]
        served = 0
        for _ in range(5):
            old = m.signal("gatewayd", signal.SIGKILL)
            waiting = []
            # connect without pause until the new one is there, then some more
            while len(waiting) < 20 or m.pid("gatewayd") in (0, old):
                s = socket.create_connection(("127.0.0.1", m.client_port), timeout=20)
                s.sendall(request)
                waiting.append(s)
                if len(waiting) > 3000:
                    raise Failure("no new gatewayd during 3000 connections")
                threading.Event().wait(0.002)
            reset = 0
            for s in waiting:
                try:
                    answer = b""
                    while chunk := s.recv(4096):
                        answer += chunk
                except ConnectionResetError:
                    answer = b""
                s.close()
                if b"etcdserver" in answer:
                    served += 1
                else:
                    reset += 1
            # one that the old process had accepted in its last moment may be lost, no other
            if reset > 1:
                raise Failure(f"{reset} of {len(waiting)} connections were not served")
        m.wait_healthy()
        cluster.stop()
        return f"{served} connections served over 5 restarts"


# ---- pauses ----

def paused_leader(target, roles):
    with Cluster(target, 3).start() as cluster:
        old = cluster.wait_leader()
        others = [m for m in cluster.members if m is not old]
        with Load(cluster.members, clients=6) as load, old.client() as direct:
            load.wait_more(40)
            direct.get("stale")
            pids = old.pause(roles)
            until("another leader", lambda: cluster.leader(others))
            load.wait_more(60, others)
            with others[0].client() as c:
                newest = c.put("stale", "new").header.revision
            # these wait inside the paused member and are looked at the moment it wakes up
            reads = [direct.kv.Range.future(pb.RangeRequest(key=b"stale"), timeout=20)
                     for _ in range(20)]
            old.resume(pids)
            answered = 0
            for f in reads:
                try:
                    r = f.result()
                except grpc.RpcError:
                    continue
                answered += 1
                if not r.kvs or r.kvs[0].value != b"new" or r.header.revision < newest:
                    raise Failure(f"the resumed leader served a stale read: {r}")
            until("the resumed member serves reads", old.healthy)
            load.wait_more(20)
            summary = finish(cluster, load, allow_timeouts=True)
            return f"{summary}; {answered} of 20 waiting reads answered"


@test("pause-raftd-of-the-leader", 10)
def pause_raftd(target):
    return paused_leader(target, ["raftd"])


@test("pause-all-of-the-leader", 10)
def pause_all(target):
    return paused_leader(target, ["supervisor"] if target.is_etcd else
                         ["gatewayd", "stored", "raftd", "supervisor"])


@test("pause-stored-of-a-follower", 8)
def pause_stored(target):
    with Cluster(target, 3).start() as cluster:
        slow = cluster.pick("follower")
        others = [m for m in cluster.members if m is not slow]
        with Load(cluster.members) as load:
            load.wait_more(40)
            pids = slow.pause(["stored"])
            load.wait_more(200, others)
            slow.resume(pids)
            load.wait_more(40)
            return finish(cluster, load, allow_timeouts=True)


# ---- a member that was away ----

def bulk_put(member, count, keys):
    """count puts over `keys` keys, by h2load: it is much faster than a Python client."""
    path = os.path.join(member.dir, "bulk")
    done = 0
    for i in range(keys):
        put_body(path, f"bulk/{i:04}".encode(), b"v" * 100)
        out = h2load(member, path, -(-count // keys)).communicate()[0]
        found = re.search(r"(\d+) succeeded", out)
        done += int(found.group(1)) if found else 0
    return done


@test("away-for-100000-writes", 60)
def away(target):
    flags = ["--snapshot-count", "10000"]
    with Cluster(target, 3, flags).start() as cluster:
        late = cluster.pick("follower")
        others = [m for m in cluster.members if m is not late]
        late.stop()
        leader = cluster.wait_leader(others)
        start = time.monotonic()
        done = bulk_put(leader, 100000, 20)
        took = time.monotonic() - start
        if done < 100000:
            raise Failure(f"only {done} of 100000 puts were answered")
        revision = others[0].contents()[1]
        if revision < 100000:
            raise Failure(f"revision is {revision} after 100000 puts")
        with Load(others, clients=4) as load:
            load.wait_more(20)
            late.start()
            late.wait_healthy(120)
            until("the late member caught up", lambda: late.contents()[1] >= revision, 120)
            load.wait_more(20)
            summary = finish(cluster, load)
        return f"100000 puts in {took:.0f} s; {summary}"


@test("away-beyond-the-log", 35)
def away_beyond_the_log(target):
    """The others no longer hold what it misses, so a snapshot is sent, with writes going on."""
    with Cluster(target, 3, ["--snapshot-count", "1000"]).start() as cluster:
        late = cluster.pick("follower")
        others = [m for m in cluster.members if m is not late]
        late.stop()
        if bulk_put(cluster.wait_leader(others), 30000, 20) < 30000:
            raise Failure("not all puts were answered")

        def begins(m):
            return max([0] + [int(i) for i in re.findall(r"the log begins at (\d+)", m.log())])
        if not target.is_etcd:
            until("the others drop the older log", lambda: min(map(begins, others)) > 20000, 60)
        revision = others[0].contents()[1]
        with Load(others, clients=4) as load:
            load.press(others[0])
            load.wait_more(20)
            late.start()
            late.wait_healthy(60)
            until("the late member caught up", lambda: late.contents()[1] >= revision, 60)
            load.wait_more(20)
            late.kill("stored")  # what was received is durable
            late.wait_healthy()
            load.wait_more(20)
            return finish(cluster, load)


@test("paused-for-many-writes", 25)
def paused_for_writes(target):
    """As above, but the member is frozen, and its connections with it."""
    with Cluster(target, 3, ["--snapshot-count", "2000"]).start() as cluster:
        late = cluster.pick("follower")
        others = [m for m in cluster.members if m is not late]
        pids = late.pause(["supervisor"] if target.is_etcd else ["raftd", "stored"])
        done = bulk_put(cluster.wait_leader(others), 20000, 10)
        if done < 20000:
            raise Failure(f"only {done} of 20000 puts were answered")
        revision = others[0].contents()[1]
        late.resume(pids)
        until("the late member caught up", lambda: late.contents()[1] >= revision, 60)
        cluster.wait_healthy()
        cluster.check_equal()
        cluster.stop()
        return "equal"


# ---- the data directory ----

@test("lost-data-dir", 12)
def lost_data_dir(target):
    with Cluster(target, 3).start() as cluster:
        m = cluster.pick("follower")
        with m.client() as c:
            for i in range(50):
                c.put(f"key{i}", "value")
            member_id = c.status().header.member_id
        m.stop()
        shutil.rmtree(m.data_dir)
        m.start()  # --initial-cluster-state new
        until("the member ends", lambda: m.proc.poll() is not None, 20)
        expected = f"member {member_id:x} has already been bootstrapped"
        if m.proc.returncode == 0:
            raise Failure("exit status 0 with a lost data directory and state new")
        if expected not in m.log():
            raise Failure(f"{expected!r} is not in the log:\n" + m.log()[-1500:])
        m.destroy()
        shutil.rmtree(m.data_dir, ignore_errors=True)
        m.state = "existing"
        m.start()
        m.wait_healthy()
        cluster.check_equal()
        with m.client() as c:
            if c.status().header.member_id != member_id:
                raise Failure("the member came back with another id")
        cluster.stop()
        return "refused, then rejoined"


@test("restart-keeps-everything", 8)
def restart_keeps(target):
    with Cluster(target, 1).start() as cluster:
        m = cluster.members[0]
        with Load(cluster.members, clients=4) as load:
            load.wait_more(200)
            load.finish()
        before = m.contents()
        for _ in range(2):
            m.stop()
            m.start()
            m.wait_healthy()
            if m.contents() != before:
                raise Failure("the contents changed over a restart")
        cluster.stop()
        return f"{len(before[0])} keys at revision {before[1]}"


@test("foreign-data-dir", 10)
def foreign_data_dir(target):
    """The data directory of another cluster brings nothing of it into this one, nor the reverse."""
    with Cluster(target, 3).start() as ours, Cluster(target, 1).start() as theirs:
        with ours.members[0].client() as c:
            c.put("ours", "1")
        with theirs.members[0].client() as c:
            c.put("theirs", "1")
        theirs.stop()
        m = ours.pick("follower")
        m.stop()
        others = [o for o in ours.members if o is not m]
        shutil.rmtree(m.data_dir)
        shutil.copytree(theirs.members[0].data_dir, m.data_dir)
        os.chmod(m.data_dir, 0o700)
        m.start()
        until("it serves or ends", lambda: m.healthy() or m.proc.poll() is not None, 20)
        served = m.proc.poll() is None
        if served:
            with m.client() as c:
                if c.get("ours")[0] is not None:
                    raise Failure("a member of another cluster got our data")
        with others[0].client() as c:
            c.put("ours", "2")
            if c.get("theirs")[0] is not None:
                raise Failure("the data of another cluster got into ours")
        m.destroy()
        for o in others:
            o.wait_healthy()
        return "it kept to its own cluster" if served else f"it ended with {m.proc.returncode}"


@test("second-process-on-one-data-dir", 6)
def twin(target):
    with Cluster(target, 1).start() as cluster:
        m = cluster.members[0]
        other = Cluster(target, 1)
        with other:
            t = other.members[0]
            t.data_dir = m.data_dir
            t.start()
            with m.client() as c:
                for i in range(200):
                    c.put(f"key{i}", "value")
            if t.healthy() and not target.is_etcd:
                raise Failure("two members serve one data directory")
            t.destroy()
        m.wait_healthy()
        cluster.stop()
        return "the second one does not serve"


# ---- side by side with Debian's etcd ----

def side_by_side(script):
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "compat", script)
    p = subprocess.run([path], capture_output=True, text=True, errors="replace", check=False)
    lines = (p.stdout + p.stderr).strip().splitlines()
    if p.returncode != 0:
        raise Failure("\n".join(lines[:60] + lines[-1:]))
    return lines[-1]


@test("compat-etcdctl", 25)
def compat_etcdctl(target):
    return side_by_side("compare.py")


@test("compat-grpc", 15)
def compat_grpc(target):
    return side_by_side("compare_grpc.py")


@test("compat-json", 6)
def compat_json(target):
    return side_by_side("compare_json.py")


# ---- sockets in the file system ----

@test("unix-sockets", 6)
def unix_sockets(target):
    """Listened on beside a port, dialled by etcdctl and conclavectl, restart included."""
    with Cluster(target, 1) as cluster:
        m = cluster.members[0]
        url = f"unix://localhost:{m.client_port}"  # a file of that name where it runs
        cluster.flags += ["--listen-client-urls", f"{m.client_url},{url}",
                          "--advertise-client-urls", url]
        env = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        env["ETCDCTL_API"] = "3"
        programs = ["etcdctl"]
        if not target.is_etcd:
            programs.append(os.path.join(os.path.dirname(target.program), "conclavectl"))
        for _ in range(2):
            cluster.start()
            for program in programs:
                for args, want in ((["put", "k", program], "OK"), (["get", "k"], program),
                                   (["endpoint", "status", "--cluster"], url + ", ")):
                    r = subprocess.run([program, "--endpoints", url] + args, env=env, cwd=m.dir,
                                       stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                       timeout=30, check=False)
                    if r.returncode != 0 or want not in r.stdout:
                        raise Failure(f"{program} {args}: {r.returncode} {r.stdout}{r.stderr}")
            cluster.stop()
            if os.path.exists(os.path.join(m.dir, f"localhost:{m.client_port}")):
                raise Failure("the socket is left behind")
        return " and ".join(os.path.basename(p) for p in programs)


# ---- what etcd 3.4 does not have ----

@test("conclavectl-beyond-etcdctl", 6)
def conclavectl_beyond(target):
    """What etcdctl 3.5 has no command for: get --stream, downgrade."""
    if target.is_etcd:
        return "skipped: it is about conclavectl"
    program = os.path.join(os.path.dirname(target.program), "conclavectl")
    env = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}

    with Cluster(target, 1).start() as cluster:
        def ctl(*args):
            r = subprocess.run([program, "--endpoints", cluster.members[0].address, *args], env=env,
                               stdin=subprocess.DEVNULL, capture_output=True, text=True,
                               timeout=60, check=False)
            return r.returncode, r.stdout, r.stderr
        with cluster.members[0].client() as c:
            for i in range(50):
                c.put(f"k{i}", f"{i} " + "v" * 20000, timeout=30)
        for more in ([], ["--keys-only"], ["--print-value-only"], ["--limit", "7"], ["--rev", "9"]):
            plain, stream = ctl("get", "k", "--prefix", *more), ctl("get", "k", "--prefix", "--stream",
                                                                    *more)
            if plain != stream or plain[0] != 0 or not plain[1]:
                raise Failure(f"get --stream {more}: {stream[0]} {stream[1][:200]!r} {stream[2]!r}")
        until("the cluster version is known", lambda: ctl("downgrade", "validate", "3.6")[0] == 0)
        for args, status, want in (
                (["validate", "3.6"], 0, "Downgrade validate success, cluster version 3.7"),
                (["validate", "3.1"], 1, "etcdserver: invalid downgrade target version"),
                (["enable", "x"], 1, "etcdserver: wrong downgrade target version format"),
                (["cancel"], 1, "etcdserver: no inflight downgrade job"),
                (["enable", "3.6"], 0, "Downgrade enable success, cluster version 3.7"),
                (["enable", "3.6"], 1, "etcdserver: cluster has a downgrade job in progress"),
                (["cancel"], 0, "Downgrade cancel success, cluster version 3.7"),
                (["validate"], 128, "TARGET_VERSION not provided")):
            r = ctl("downgrade", *args)
            if r[0] != status or want not in r[1] + r[2]:
                raise Failure(f"downgrade {args}: {r}")
        cluster.stop()
        return "as told"


def range_stream(channel, request):
    """All messages of a KV.RangeStream call, as RangeResponses."""
    call = channel.unary_stream("/etcdserverpb.KV/RangeStream",
                                request_serializer=pb.RangeRequest.SerializeToString,
                                response_deserializer=lambda raw: raw)
    # RangeStreamResponse has one field, 1: a RangeResponse; as a message with a header it parses too
    return [pb.RangeResponse.FromString(pb.PutResponse.FromString(raw).header.SerializeToString())
            for raw in call(request, timeout=10)]


@test("range-stream", 6)
def range_in_chunks(target):
    with Cluster(target, 1).start() as cluster, cluster.members[0].client() as c:
        for i in range(1000):
            c.put(f"key{i:04}", "x" * 5000)
        everything = {"key": b"key", "range_end": b"kez"}
        plain = c.kv.Range(pb.RangeRequest(**everything), timeout=10)
        chunks = range_stream(c.channel, pb.RangeRequest(**everything))
        if [kv for m in chunks for kv in m.kvs] != list(plain.kvs):
            raise Failure("the chunks do not make the range")
        if len(chunks) < 4 or max(m.ByteSize() for m in chunks) > 4 << 20:
            raise Failure(f"{len(chunks)} chunks, of {[m.ByteSize() for m in chunks]} bytes")
        if any(m.HasField("header") or m.count or m.more for m in chunks[:-1]):
            raise Failure("header, count or more before the last chunk")
        last = chunks[-1]
        if (last.header.revision, last.count, last.more) != (plain.header.revision, 1000, False):
            raise Failure(f"the last chunk says {last.header}, {last.count}, {last.more}")
        for kw, keys, more, count in (
                ({"limit": 25}, 25, True, 1000), ({"limit": 1000}, 1000, False, 1000),
                ({"count_only": True}, 0, False, 1000), ({"revision": 2}, 1, False, 1),
                ({"keys_only": True, "sort_order": "ASCEND"}, 1000, False, 1000)):
            got = range_stream(c.channel, pb.RangeRequest(**everything, **kw))
            if (sum(len(m.kvs) for m in got), got[-1].more, got[-1].count) != (keys, more, count):
                raise Failure(f"{kw}: {sum(len(m.kvs) for m in got)} keys, {got[-1].count}")
        for kw, text in (({"sort_order": "DESCEND"}, "custom sort orders"),
                         ({"sort_order": "ASCEND", "sort_target": "MOD"}, "custom sort orders"),
                         ({"min_mod_revision": 3}, "revision filters"),
                         ({"revision": 99999}, "future revision")):
            try:
                range_stream(c.channel, pb.RangeRequest(**everything, **kw))
                raise Failure(f"{kw} was not refused")
            except grpc.RpcError as e:
                if text not in e.details():
                    raise Failure(f"{kw}: {e.details()}") from e
        cluster.stop()
        return f"{len(chunks)} chunks"


# ---- metrics ----

# What the alerts and dashboards of etcd's monitoring mixin ask for.
MIXIN = """etcd_server_has_leader etcd_server_is_leader etcd_server_leader_changes_seen_total
    etcd_server_proposals_applied_total etcd_server_proposals_committed_total
    etcd_server_proposals_failed_total etcd_server_proposals_pending
    etcd_server_quota_backend_bytes etcd_mvcc_db_total_size_in_bytes
    etcd_mvcc_db_total_size_in_use_in_bytes etcd_disk_wal_fsync_duration_seconds_bucket
    etcd_disk_backend_commit_duration_seconds_bucket etcd_network_peer_sent_failures_total
    etcd_network_peer_round_trip_time_seconds_bucket etcd_network_peer_sent_bytes_total
    etcd_network_peer_received_bytes_total etcd_network_client_grpc_received_bytes_total
    etcd_network_client_grpc_sent_bytes_total etcd_debugging_mvcc_watcher_total
    grpc_server_started_total grpc_server_handled_total grpc_server_handling_seconds_bucket
    process_resident_memory_bytes process_start_time_seconds""".split()


def scrape(member):
    """name -> [(labels, value)], each line checked for its form and each family for its TYPE."""
    found, families = {}, set()
    with urllib.request.urlopen(member.client_url + "/metrics", timeout=5) as r:
        for line in r.read().decode().splitlines():
            if line.startswith("# TYPE "):
                name = line.split()[2]
                if name in families:
                    raise Failure(f"{name} comes twice")
                families.add(name)
            elif not line.startswith("#"):
                m = re.fullmatch(r'([a-z0-9_]+)(?:{([^}]*)})? ([0-9.e+-]+|\+Inf|NaN)', line)
                if not m:
                    raise Failure(f"not a sample: {line}")
                if not any(m[1] == f or re.fullmatch(f + "_(bucket|sum|count)", m[1])
                           for f in (m[1], re.sub("_(bucket|sum|count)$", "", m[1]))
                           if f in families):
                    raise Failure(f"{m[1]} has no TYPE before it")
                found.setdefault(m[1], []).append((m[2] or "", float(m[3])))
    return found


@test("metrics-of-3", 8)
def metrics(target):
    with Cluster(target, 3, ["--metrics", "extensive"]).start() as cluster:
        leader = cluster.leader()
        with leader.client() as c:
            for i in range(100):
                c.put(f"key{i}", "x" * 100)
        found = until("round trips were measured", lambda: (
            lambda f: f if f.get("etcd_network_peer_round_trip_time_seconds_count", [("", 0)])[0][1]
            else None)(scrape(leader)))
        missing = [name for name in MIXIN if name not in found]
        if missing:
            raise Failure(f"not there: {missing}")
        value = {name: samples[0][1] for name, samples in found.items()}
        for name, least, most in (("etcd_server_has_leader", 1, 1), ("etcd_server_is_leader", 1, 1),
                                  ("etcd_mvcc_put_total", 100, 100),
                                  ("etcd_disk_wal_fsync_duration_seconds_count", 1, 1 << 40),
                                  ("etcd_server_proposals_applied_total", 100, 1000),
                                  ("process_resident_memory_bytes", 1 << 20, 1 << 30)):
            if not least <= value[name] <= most:
                raise Failure(f"{name} is {value[name]}")
        peers = {labels for labels, _ in found["etcd_network_peer_sent_bytes_total"]}
        if len(peers) != 2:
            raise Failure(f"sent bytes to {peers}")
        for m in cluster.members:
            if scrape(m)["etcd_server_leader_changes_seen_total"][0][1] < 1:
                raise Failure(f"{m.name} has seen no leader")
        cluster.stop()
        return f"{len(found)} metrics"


import tests_watch  # noqa: E402,F401 pylint: disable=wrong-import-position,cyclic-import,unused-import
