"""Membership, alarms and upkeep as an operator does them, with Debian's etcdctl."""

import os
import re
import subprocess

import grpc
from etcd3.etcdrpc import rpc_pb2 as pb

from harness import Cluster, Failure, Member, free_port, until
from load import Load
from tests import finish, test


def etcdctl(member, *args):
    """Exit status and output; a refusal of a cluster that is not healthy yet is for the caller."""
    p = subprocess.run(["etcdctl", "--endpoints", member.client_url, *args], check=False,
                       env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, text=True)
    return p.returncode, (p.stdout + p.stderr).strip()


def ctl(member, *args):
    """The output. While members have not been connected for five seconds changes are refused."""
    said = ""

    def attempt():
        nonlocal said
        code, said = etcdctl(member, *args)
        if code != 0 and "unhealthy cluster" not in said and "in sync with leader" not in said:
            raise Failure(f"etcdctl {' '.join(args)}: {said}")
        return code == 0
    until(lambda: f"etcdctl {' '.join(args)}: {said}", attempt)
    return said


def refused(member, text, *args):
    code, said = etcdctl(member, *args)
    if code == 0 or text not in said:
        raise Failure(f"etcdctl {' '.join(args)} was to be refused with '{text}': {said}")


def ids(member):
    """Name (or peer URLs, before it has started) to id in hexadecimal."""
    found = {}
    for line in ctl(member, "member", "list").splitlines():
        fields = line.split(", ")
        found[fields[2] or fields[3]] = fields[0]
    return found


def add_member(cluster, via, name, *flags):
    """member add, and a member started with what it prints."""
    m = Member(cluster, name)
    said = ctl(via, "member", "add", name, "--peer-urls", m.peer_url, *flags)
    printed = dict(re.findall(r'^(ETCD_\w+)="(.*)"$', said, re.M))
    if printed.get("ETCD_INITIAL_CLUSTER_STATE") != "existing":
        raise Failure(f"member add printed {said}")
    m.state = "existing"
    cluster.members.append(m)
    given = set(printed["ETCD_INITIAL_CLUSTER"].split(","))
    if given != {f"{o.name}={o.peer_url}" for o in cluster.members}:
        raise Failure(f"member add printed {said}")
    return m


@test("members-grow-1-to-3", 25)
def grow(target):
    """One member becomes three under load; each new one starts with what etcdctl printed."""
    with Cluster(target, 1).start() as cluster:
        first = cluster.members[0]
        with Load(list(cluster.members)) as load:
            load.wait_more(50)
            for name in ("n2", "n3"):
                m = add_member(cluster, first, name)
                if name == "n2":
                    # half of two has not started: another one is refused
                    refused(first, "not enough started members", "member", "add", "x",
                            "--peer-urls", "http://127.0.0.1:1")
                m.start()
                m.wait_healthy()
                load.wait_more(50)
            refused(first, "member not found", "member", "remove", "77")
            refused(first, "can only promote a learner", "member", "promote", ids(first)["n2"])
            cluster.wait_healthy()
            return finish(cluster, load)


@test("members-learner-promoted", 20)
def learner(target):
    """A learner joins under load, serves nothing but local reads, and is promoted."""
    with Cluster(target, 1).start() as cluster:
        first = cluster.members[0]
        with Load(list(cluster.members)) as load:
            load.wait_more(50)
            m = add_member(cluster, first, "n2", "--learner")
            refused(first, "too many learner", "member", "add", "x", "--learner", "--peer-urls",
                    "http://127.0.0.1:1")
            m.start()

            def local_read():
                try:
                    with m.client() as c:
                        return c.get("health", serializable=True)[1] > 1
                except grpc.RpcError:
                    return False
            until("the learner answers local reads", local_read)
            with m.client() as c:
                for call in (lambda: c.get("health"), lambda: c.put("x", "y")):
                    try:
                        call()
                        raise Failure("a learner answered more than local reads")
                    except grpc.RpcError as e:
                        if "rpc not supported for learner" not in e.details():
                            raise Failure(e.details()) from None
            ctl(first, "member", "promote", ids(first)["n2"])
            m.wait_healthy()
            load.wait_more(50)
            return finish(cluster, load)


@test("members-leader-removed", 25)
def leader_removed(target):
    """The leader is removed under load: it ends, the others go on, and it does not come back."""
    with Cluster(target, 3).start() as cluster:
        leader = cluster.wait_leader()
        rest = [m for m in cluster.members if m is not leader]
        with Load(rest) as load:
            load.wait_more(50)
            ctl(rest[0], "member", "remove", ids(rest[0])[leader.name])
            code = leader.proc.wait(20)
            if code != 0 or "permanently removed from the cluster" not in leader.log():
                raise Failure(f"the removed member ended with {code}")
            cluster.members = rest
            cluster.wait_leader()
            load.wait_more(50)
            if leader.name in ids(rest[0]):
                raise Failure("it is still listed")
            leader.start()  # its data directory is refused
            code = leader.proc.wait(20)
            if code != 0 or leader.log().count("permanently removed from the cluster") < 2:
                raise Failure(f"started again, the removed member ended with {code}")
            leader.proc = None
            return finish(cluster, load)


@test("members-removed-while-down", 20)
def removed_while_down(target):
    """A member that was away when it was removed ends when it comes back, and can be replaced."""
    with Cluster(target, 3).start() as cluster:
        leader = cluster.wait_leader()
        away = next(m for m in cluster.members if m is not leader)
        away.stop()
        ctl(leader, "member", "remove", ids(leader)[away.name])
        away.start()
        code = away.proc.wait(20)
        if code != 0:
            raise Failure(f"it ended with {code}")
        away.proc = None
        cluster.members.remove(away)
        m = add_member(cluster, leader, "n4")
        m.start()
        m.wait_healthy()
        cluster.check_equal()
        cluster.stop()
        return "it ended, and n4 took its place"


@test("members-new-address", 20)
def new_address(target):
    """A member moves to another peer URL: member update, then a restart there, under load."""
    with Cluster(target, 3).start() as cluster:
        leader = cluster.wait_leader()
        m = next(m for m in cluster.members if m is not leader)
        rest = [o for o in cluster.members if o is not m]
        with Load(rest) as load:
            load.wait_more(50)
            m.peer_port = free_port()
            m.peer_url = f"http://127.0.0.1:{m.peer_port}"
            refused(leader, "Peer URLs already exists", "member", "update", ids(leader)[m.name],
                    f"--peer-urls={leader.peer_url}")
            ctl(leader, "member", "update", ids(leader)[m.name], f"--peer-urls={m.peer_url}")
            m.stop()
            m.start()
            m.wait_healthy()
            load.wait_more(50)
            if m.peer_url not in ctl(m, "member", "list"):
                raise Failure(ctl(m, "member", "list"))
            return finish(cluster, load)


@test("leadership-moved", 10)
def moved(target):
    with Cluster(target, 3).start() as cluster:
        with Load(cluster.members) as load:
            load.wait_more(50)
            leader = cluster.wait_leader()
            other = next(m for m in cluster.members if m is not leader)
            all_ids = ids(leader)
            refused(other, "no leader endpoint given", "move-leader", all_ids[other.name])
            refused(leader, "bad leader transferee", "move-leader", "77")
            said = ctl(leader, "move-leader", all_ids[other.name])
            if said != f"Leadership transferred from {all_ids[leader.name]} to " \
                       f"{all_ids[other.name]}":
                raise Failure(said)
            until("the other one leads", lambda: cluster.leader() is other)
            load.wait_more(50)
            return finish(cluster, load)


@test("quota-reached-and-disarmed", 15)
def quota(target):
    """Filled up, writes are refused everywhere; deleted, compacted and disarmed they go on."""
    with Cluster(target, 3, ["--quota-backend-bytes", str(4 << 20)]).start() as cluster:
        one, other = cluster.members[:2]
        value = b"x" * 100000
        with one.client() as c, other.client() as d:
            def put(i):
                try:
                    c.put(f"fill/{i}", value)
                    return False
                except grpc.RpcError as e:
                    if e.code() != grpc.StatusCode.RESOURCE_EXHAUSTED or \
                            e.details() != "etcdserver: mvcc: database space exceeded":
                        raise
                    return True
            filled = next(i for i in range(100) if put(i))
            until("every member refuses", lambda: refuses(d))
            if "alarm:NOSPACE" not in ctl(other, "alarm", "list"):
                raise Failure(ctl(other, "alarm", "list"))
            status = d.status()
            if not any("NOSPACE" in e for e in getattr(status, "errors", ["NOSPACE"])):
                raise Failure(f"{status}")
            if d.get("fill/0")[0].value != value:
                raise Failure("it does not read")
            r = d.kv.DeleteRange(pb.DeleteRangeRequest(key=b"fill/", range_end=b"fill0"))
            d.kv.Compact(pb.CompactionRequest(revision=r.header.revision, physical=True))
            for m in cluster.members:
                ctl(m, "defrag")
            ctl(one, "alarm", "disarm")
            if ctl(one, "alarm", "list") != "":
                raise Failure("it is still armed")
            for i in range(filled // 2):
                if put(i):
                    raise Failure("there is room, and it is refused")
        cluster.check_equal()
        cluster.stop()
        return f"{filled} values of 100 kB, disarmed, and on"


def refuses(client):
    try:
        client.put("small", "value")
        return False
    except grpc.RpcError as e:
        return e.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


@test("auto-compaction", 20)
def auto_compaction(target):
    """History older than the period goes by itself, on every member, and what is current stays."""
    with Cluster(target, 3, ["--auto-compaction-retention", "3s"]).start() as cluster:
        with cluster.members[0].client() as c:
            for i in range(50):
                c.put("key", str(i))
            _, revision = c.get("key")

            def gone(m):
                try:
                    with m.client() as d:
                        d.kv.Range(pb.RangeRequest(key=b"key", revision=revision - 10,
                                                   serializable=True), timeout=5)
                    return False
                except grpc.RpcError as e:
                    return "required revision has been compacted" in e.details()
            for m in cluster.members:
                until(f"{m.name} has compacted", lambda m=m: gone(m))
            if c.get("key")[0].value != b"49":
                raise Failure("the current value is gone")
        cluster.check_equal()
        cluster.stop()
        return "compacted by itself"


@test("hashes-are-equal", 8)
def hashes(target):
    """etcdctl endpoint hashkv of all members, at the same revision."""
    with Cluster(target, 3).start() as cluster:
        with Load(cluster.members) as load:
            load.wait_more(200)
            load.finish()
        cluster.check_equal()
        said = {ctl(m, "endpoint", "hashkv").split(", ")[1] for m in cluster.members}
        if len(said) != 1:
            raise Failure(f"{said}")
        for m in cluster.members:
            ctl(m, "defrag")
        again = {ctl(m, "endpoint", "hashkv").split(", ")[1] for m in cluster.members}
        if again != said:
            raise Failure("defragmentation changed it")
        cluster.stop()
        return f"hash {said.pop()}"
