"""Snapshots: taken under load, restored into etcd, made by etcd, restored into Conclave and back.

What must be equal is compared by etcd's own tools: every key with all its revision numbers, the
same at an older revision, HashKV (which covers all history that is left), what is refused as compacted,
leases, users and roles.
"""

import json
import os
import re
import shutil
import subprocess

from harness import Client, Cluster, Failure, Target, pb, until
from load import Load
from protobuf_wire import msg
from tests import test

ROOT = "root:secret"


def ctl(member, *args, user=None, timeout=30):
    """Debian's etcdctl; its standard output, or Failure."""
    command = ["etcdctl", "--endpoints", member.address]
    if user:
        command += ["--user", user]
    return run(command + list(args), timeout)


def run(command, timeout=60):
    env = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
    env["ETCDCTL_API"] = "3"
    r = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True,
                       timeout=timeout, text=True, check=False)
    if r.returncode != 0:
        raise Failure(f"{' '.join(command)}: status {r.returncode}: {r.stdout}{r.stderr}")
    return r.stdout


def save(member, path, user=None):
    ctl(member, "snapshot", "save", path, user=user)
    status = run(["etcdctl", "snapshot", "status", path, "-w", "json"])
    ours = os.path.join(os.environ.get("CONCLAVE_PREFIX", ""), "bin/conclavectl")
    if os.access(ours, os.X_OK):
        for form in ("json", "simple", "table", "fields"):
            a = run(["etcdctl", "snapshot", "status", path, "-w", form])
            b = run([ours, "snapshot", "status", path, "-w", form])
            if a != b:
                raise Failure(f"snapshot status of {path} as {form}: {a!r} != {b!r}")
    return json.loads(status)


def restore_args(member, path):
    c = member.cluster
    return [path, "--name", member.name, "--data-dir", member.data_dir,
            "--initial-cluster", ",".join(f"{m.name}={m.peer_url}" for m in c.members),
            "--initial-cluster-token", os.path.basename(c.dir),
            "--initial-advertise-peer-urls", member.peer_url]


def restore(cluster, path, *more):
    """Each member's directory, from the same file."""
    for m in cluster.members:
        if cluster.target.is_etcd:
            command = ["etcdctl", "snapshot", "restore"]
        else:
            prefix = os.path.dirname(os.path.dirname(cluster.target.program))
            command = [os.path.join(prefix, "bin/conclavectl"), "snapshot", "restore"]
        run(command + restore_args(m, path) + list(more))


def started(cluster, user):
    """Starts it and waits until each member answers what needs the others."""
    for m in cluster.members:
        m.start()

    def answers(m):
        try:
            ctl(m, "get", "no such key", user=user, timeout=20)
        except (Failure, subprocess.TimeoutExpired):
            return False
        return True
    for m in cluster.members:
        until(f"{m.name} serves", lambda m=m: answers(m), 30)
    return cluster


def answer(member, *args, user=None):
    """A JSON answer without what differs between clusters."""
    reply = json.loads(ctl(member, *args, "-w", "json", user=user))
    revision = reply.get("header", {}).pop("revision", None)
    reply.pop("header", None)
    return reply, revision


def hash_kv(member, revision, user):
    """[hash, compact revision] of all history up to the revision."""
    reply = json.loads(ctl(member, "endpoint", "hashkv", "--rev", str(revision), "-w", "json",
                           user=user))[0]["HashKV"]
    return reply["hash"], reply.get("compact_revision")


def compacted(member, revision, user):
    """What is said to who asks for history that is not there any more."""
    said = []
    for command in (["get", "k1"], ["endpoint", "hashkv"], ["watch", "k1"]):
        try:
            ctl(member, *command, "--rev", str(revision), user=user)
        except Failure as e:
            said.append(re.findall(r"etcdserver: mvcc: [a-z ]+|canceled by the server", str(e)))
        else:
            raise Failure(f"{member.name}: {command[0]} at {revision}, which is compacted, is answered")
    try:
        ctl(member, "compact", str(revision), user=user)
    except Failure as e:
        return said + [re.findall(r"etcdserver: mvcc: [a-z ]+", str(e))]
    raise Failure(f"{member.name}: compacted twice at {revision}")


def everything(member, revisions, user=None):
    """What a member says, as text that can be compared."""
    out = {}
    for revision in revisions:
        reply, _ = answer(member, "get", "", "--prefix", "--rev", str(revision), user=user)
        out[f"keys at {revision}"] = reply
        out[f"hash at {revision}"] = hash_kv(member, revision, user)
    out["compacted"] = compacted(member, revisions[0] - 2, user)
    out["leases"] = sorted(str(l) for l in answer(member, "lease", "list", user=user)[0]
                           .get("leases", []))
    for lease in out["leases"]:
        identity = json.loads(lease.replace("'", '"'))["id"]
        reply = json.loads(ctl(member, "lease", "timetolive", "--keys", f"{identity:x}", "-w",
                               "json", user=user))
        out[f"lease {identity:x}"] = (reply["granted-ttl"], sorted(reply.get("keys") or []))
    for kind in ("user", "role"):
        names = ctl(member, kind, "list", user=user).split()
        out[kind] = sorted(names)
        for name in names:
            out[f"{kind} {name}"] = answer(member, kind, "get", name, user=user)[0]
    return out


def must_equal(what, a, b):
    for key in sorted(set(a) | set(b)):
        if a.get(key) != b.get(key):
            raise Failure(f"{what}: {key}: {str(a.get(key))[:600]} != {str(b.get(key))[:600]}")


# ---- made by etcd, restored into Conclave and back ----

def fill(member, first=0):
    """Keys, deletions, versions, txn-like ranges, leases. The revisions to look at."""
    for i in range(first, first + 40):
        ctl(member, "put", f"k{i}", f"value {i} " + "x" * (i * 37))
    for i in range(first, first + 40, 3):
        ctl(member, "put", f"k{i}", f"again {i}")
    ctl(member, "put", "big", "B" * 100000)
    ctl(member, "del", f"k{first + 5}")
    ctl(member, "del", f"k{first + 7}", f"k{first + 9}")
    ctl(member, "put", f"k{first + 5}", "reborn")
    for ttl in ("3600", "7200"):
        lease = ctl(member, "lease", "grant", ttl).split()[1]
        ctl(member, "put", "--lease", lease, f"leased/{ttl}", "1")
        ctl(member, "put", "--lease", lease, f"leased/{ttl}/too", "2")
    _, now = answer(member, "get", "no such key")
    ctl(member, "compact", str(now - 20))
    ctl(member, "put", "after", "compaction")
    ctl(member, "del", "after")
    return [now - 19, now - 7, now + 2]


def protect(member):
    ctl(member, "role", "add", "reader")
    ctl(member, "role", "grant-permission", "reader", "read", "k", "--prefix")
    ctl(member, "role", "grant-permission", "reader", "readwrite", "own")
    ctl(member, "user", "add", "alice:wonder")
    ctl(member, "user", "grant-role", "alice", "reader")
    ctl(member, "role", "add", "root")
    ctl(member, "user", "add", ROOT)
    ctl(member, "user", "grant-role", "root", "root")
    ctl(member, "auth", "enable")


def rights_hold(member):
    """A password made by the other kind of cluster is good, and so are the limits."""
    if "value 1 " not in ctl(member, "get", "k1", user="alice:wonder"):
        raise Failure(f"{member.name}: alice does not see k1")
    for args, user in ((("put", "k1", "x"), "alice:wonder"), (("get", "k1"), "alice:wrong"),
                       (("get", "big"), "alice:wonder"), (("get", "k1"), None)):
        try:
            ctl(member, *args, user=user)
        except Failure:
            continue
        raise Failure(f"{member.name}: {args} as {user} was allowed")


def there_and_back(target, with_auth):
    user = ROOT if with_auth else None
    etcd = Target("etcd")
    with Cluster(etcd, 1) as first, Cluster(target, 3) as second, Cluster(etcd, 1) as third:
        first.start()
        revisions = fill(first.members[0])
        if with_auth:
            protect(first.members[0])
        there = os.path.join(first.dir, "there.snap")
        save(first.members[0], there, user)
        want = everything(first.members[0], revisions, user)
        restore(second, there)
        started(second, user)
        for m in second.members[:1] if with_auth else second.members:  # each call costs a bcrypt
            must_equal(f"etcd and {m.name}", want, everything(m, revisions, user))
        last = revisions[-1]
        for m in second.members:
            if hash_kv(m, last, user) != want[f"hash at {last}"]:
                raise Failure(f"{m.name}: HashKV at {last} is not that of etcd")
        if with_auth:
            rights_hold(second.members[1])
            for m in second.members:
                if "value 1 " not in ctl(m, "get", "k1", user="alice:wonder"):
                    raise Failure(f"{m.name}: alice does not see k1")
        ctl(second.members[2], "put", "k1", "value 1 new", user=user)  # and it goes on
        revisions.append(revisions[-1] + 1)
        ctl(second.members[0], "get", "k1", user=user)  # linearizable: it has executed the put
        back = os.path.join(second.dir, "back.snap")
        status = save(second.members[0], back, user)
        if status["revision"] != revisions[-1]:
            raise Failure(f"the snapshot is of revision {status['revision']}, not {revisions[-1]}")
        want = everything(second.members[0], revisions, user)
        restore(third, back)
        started(third, user)
        must_equal("Conclave and etcd", want, everything(third.members[0], revisions, user))
        if with_auth:
            rights_hold(third.members[0])
        for c in (first, second, third):
            c.stop()
        return f"{status['totalKey']} records, {status['totalSize']} bytes"


@test("snapshot-from-etcd-and-back", 25)
def from_etcd_and_back(target):
    return there_and_back(target, False)


@test("snapshot-from-etcd-and-back-auth", 30)
def from_etcd_and_back_auth(target):
    return there_and_back(target, True)


@test("snapshot-alarms-stay", 20)
def alarms_stay(target):
    """There and back, under the id of the member that raised it, until it is disarmed."""
    etcd = Target("etcd")
    with Cluster(etcd, 1) as first, Cluster(target, 3) as second, Cluster(etcd, 1) as third:
        first.start()
        ctl(first.members[0], "put", "k", "1")
        with Client(first.members[0]) as c:
            ident = c.status(30).header.member_id
            c.maintenance.Alarm(pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, memberID=ident,
                                                alarm=pb.NOSPACE), timeout=30)
        raised = f"memberID:{ident} alarm:NOSPACE"
        path = os.path.join(first.dir, "full.snap")
        save(first.members[0], path)
        for cluster in (second, third):
            restore(cluster, path)
            started(cluster, None)
            for m in cluster.members:
                if ctl(m, "alarm", "list").strip() != raised:
                    raise Failure(f"{m.name}: alarms are {ctl(m, 'alarm', 'list')!r}, not {raised!r}")
                try:
                    ctl(m, "put", "k", "2")
                except Failure as e:
                    if "database space exceeded" not in str(e):
                        raise
                else:
                    raise Failure(f"{m.name}: took a put while the alarm is raised")
            path = os.path.join(cluster.dir, "full.snap")
            save(cluster.members[0], path)
            ctl(cluster.members[0], "alarm", "disarm")
            ctl(cluster.members[0], "put", "k", "3")
            cluster.stop()
        first.stop()
        return raised


@test("snapshot-rest-of-a-lease", 20)
def rest_of_a_lease(target):
    """What is left of a lease runs on after a restore; etcd reads the file too."""
    if target.is_etcd:
        return "skipped: it stores what is left every five minutes, and only if told to"
    with Cluster(target, 1) as one, Cluster(target, 3) as three, Cluster(Target("etcd"), 1) as etcd:
        one.start()
        ident = int(ctl(one.members[0], "lease", "grant", "1000").split()[1], 16)
        path = os.path.join(one.dir, "snap")
        grant = msg((1, ident), (2, 1000)) + b"\x18"

        def rest():
            """In the file, once the deadline is one that all members know and time has passed."""
            ctl(one.members[0], "snapshot", "save", path)
            with open(path, "rb") as f:
                data = f.read()
            _, found, after = data.partition(grant)
            left = (after[0] & 0x7f) + (after[1] << 7) if found else 1000  # above 127: two bytes
            return left if left < 999 else 0

        left = until("what is left of the lease is in the file", rest, 60, 0.3)
        for cluster in (three, etcd):
            restore(cluster, path)
            started(cluster, None)
            for m in cluster.members:
                reply = json.loads(ctl(m, "lease", "timetolive", f"{ident:x}", "-w", "json"))
                if reply["granted-ttl"] != 1000:
                    raise Failure(f"{m.name}: {reply}")
                if cluster is three and reply["ttl"] > left:
                    raise Failure(f"{m.name}: {reply}, in the file {left}")
            cluster.stop()
        one.stop()
        return f"{left} of 1000 s"


@test("snapshot-restored-cluster-raised-revision", 15)
def raised_revision(target):
    """--bump-revision: clients that cache by revision see that history was cut."""
    if target.is_etcd:
        return "skipped: 3.4 has no such option"
    with Cluster(target, 1) as one, Cluster(target, 3) as three:
        one.start()
        fill(one.members[0])
        path = os.path.join(one.dir, "snap")
        old = save(one.members[0], path)["revision"]
        keys, _ = answer(one.members[0], "get", "", "--prefix")
        restore(three, path, "--bump-revision", "1000", "--mark-compacted")
        started(three, None)
        for m in three.members:
            got, revision = answer(m, "get", "", "--prefix")
            if got != keys or revision != old + 1000:
                raise Failure(f"{m.name}: revision {revision}, was {old}; keys equal: {got == keys}")
        try:
            ctl(three.members[0], "get", "k1", "--rev", str(old))
        except Failure as e:
            if "compacted" not in str(e):
                raise
        else:
            raise Failure("history below the raised revision is still served")
        ctl(three.members[1], "put", "k1", "on")
        three.check_equal()
        one.stop()
        three.stop()
        return f"revision {old} to {old + 1000}"


# ---- taken while everything moves ----

@test("snapshot-under-load", 20)
def under_load(target):
    """Each snapshot is the state of exactly one revision: restored, it equals what the living
    cluster says of that revision."""
    with Cluster(target, 3).start() as cluster:
        taken = []  # path, revision
        with Load(cluster.members, keys=40) as load:
            load.wait_more(200)
            for i in range(3):
                path = os.path.join(cluster.dir, f"{i}.snap")
                taken.append((path, save(cluster.members[i % 3], path)["revision"]))
                load.wait_more(100)
            load.finish()
        for path, revision in taken:
            with Cluster(Target("etcd"), 1) as other:
                restore(other, path)
                started(other, None)
                want, _ = answer(cluster.members[0], "get", "", "--prefix", "--rev", str(revision))
                got, now = answer(other.members[0], "get", "", "--prefix")
                if got != want or now != revision:
                    raise Failure(f"the snapshot of revision {revision} restores to another state "
                                  f"at {now}")
                hashes = [hash_kv(m, revision, None) for m in (cluster.members[0],
                                                               other.members[0])]
                if hashes[0] != hashes[1]:
                    raise Failure(f"HashKV at {revision}: {hashes}")
                other.stop()
        cluster.stop()
        return f"revisions {', '.join(str(r) for _, r in taken)}"


# ---- a member that joins a restored cluster gets what no log holds ----

@test("snapshot-restored-cluster-grows", 15)
def restored_cluster_grows(target):
    with Cluster(target, 1) as one, Cluster(target, 2) as two:
        one.start()
        fill(one.members[0])
        path = os.path.join(one.dir, "snap")
        save(one.members[0], path)
        late = two.members.pop()
        restore(two, path)
        started(two, None)
        ctl(two.members[0], "member", "add", late.name, "--peer-urls", late.peer_url)
        two.members.append(late)
        late.state = "existing"
        late.start()
        late.wait_healthy()
        ctl(late, "put", "through", "the new member")
        two.check_equal()
        one.stop()
        two.stop()
        return "the new member has what the others have"


# ---- daemons die while it is sent ----

@test("snapshot-while-daemons-die", 20)
def while_daemons_die(target):
    """A save either fails or gives a whole file; the next one works again."""
    if target.is_etcd:
        return "skipped: it has one process, whose restart the harness mixes up with the client's end"
    with Cluster(target, 1).start() as cluster:
        member = cluster.members[0]
        for i in range(60):
            ctl(member, "put", f"big{i}", f"{i} " + "v" * 120000)
        path = os.path.join(cluster.dir, "snap")
        command = ["etcdctl", "--endpoints", member.address, "snapshot", "save", path]
        env = dict(os.environ, ETCDCTL_API="3")
        failed = whole = 0
        for role in ["stored", "gatewayd", "raftd"] * 3:
            with subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as saving:
                until("the file is begun", lambda: os.path.exists(path + ".part")
                      or saving.poll() is not None)
                member.kill(role)
                if saving.wait(60) == 0:
                    whole += 1
                    run(["etcdctl", "snapshot", "restore", path, "--data-dir", path + ".etcd"])
                    shutil.rmtree(path + ".etcd")
                else:
                    failed += 1
            for left in (path, path + ".part"):
                if os.path.exists(left):
                    os.remove(left)
            member.wait_healthy()
        status = save(member, path)
        if status["revision"] != 61:
            raise Failure(f"the snapshot is of revision {status['revision']}")
        cluster.stop()
        return f"{failed} failed, {whole} whole"
