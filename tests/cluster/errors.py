"""Every error a client of the v3 API can be told, by code and exact text, and the request that earns it.

ROWS is the list. A row names its requests, each under the scene (a cluster in a certain state) where
it is sent, or says why nobody can ever be sent it. The rows of a scene are tried in their order, so a
request may build on what those above it left. A row without a request, a scene that nobody plays, and
an error that gatewayd knows and the list does not fail the test "errors-listed".

CLUSTER_TARGET=etcd plays the scenes that need no daemon of ours; CLUSTER_ETCD says which etcd. A row
says where releases before 3.6 answer something else.
"""

import http.client
import os
import re
import signal
import subprocess
import threading

import grpc

from auth import add_users, jwt_cluster, login
from calls import (CLUSTER, KV, LEASE, MAINT, PUT, RANGE, Caller, auth, compare, op, outcome_of, rng,
                   txn)
from harness import Cluster, Failure, Member, until
from protobuf_wire import fields_of, msg
from tests import test

HERE = os.path.dirname(os.path.abspath(__file__))
C = grpc.StatusCode
LOCK, ELECTION = "/v3lockpb.Lock/", "/v3electionpb.Election/"
VALIDATE, ENABLE, CANCEL = 0, 1, 2
CORRUPT = 2
WAIT_S = 60  # for a call whose answer waits for the server's own timeout


class Row:
    def __init__(self, code, text, old=None, never=None, **scenes):
        """scenes: a list of requests each, (path, body) or (path, makes the body of a Scene), or
        what asks in its own way and returns (code, text). old: the code before 3.6."""
        self.code, self.text, self.old, self.never, self.scenes = code, text, old, never, scenes

    def expected(self, target):
        code = self.old if self.old and target.is_etcd else self.code
        return code, self.text


class Scene:
    """A cluster, and what the requests of one scene tell each other."""

    def __init__(self, cluster, member=None):
        self.cluster = cluster
        self.member = member or cluster.members[0]
        self.caller = Caller(self.member)

    def ask(self, path, body, caller=None):
        caller = caller or self.caller
        if path.rsplit("/", 1)[1] in ("Watch", "LeaseKeepAlive", "Observe", "Snapshot"):
            return caller.first_of_stream(path, body, WAIT_S)[0]
        return caller.call(path, body, WAIT_S)[0]

    def begin(self, path, body, caller=None):
        """A call whose answer is asked for later: ended(it)."""
        caller = caller or self.caller
        return caller.channel.unary_unary(path).future(body, metadata=caller.metadata,
                                                       timeout=WAIT_S)

    @staticmethod
    def ended(call):
        e = call.exception()
        return (C.OK, "") if e is None else outcome_of(e)

    def must(self, path, body):
        return self.caller.must(path, body)

    def given(self, path, body, then):
        """Done first, and the request."""
        self.must(path, body)
        return then

    def url(self):
        """A peer URL nobody listens at, never the same."""
        self.urls = getattr(self, "urls", 0) + 1
        return f"http://127.0.0.1:{self.urls}"

    def member_id(self, member=None):
        member = member or self.member
        answer = self.must(MAINT + "Status", b"") if member is self.member else \
            Caller(member).must(MAINT + "Status", b"")
        return fields_of(fields_of(answer)[1][0])[2][0]

    def lease(self, ttl=600):
        return fields_of(self.must(LEASE + "LeaseGrant", msg((1, ttl))))[2][0]

    def one_below(self):
        connection = http.client.HTTPConnection(self.member.address, timeout=WAIT_S)
        connection.request("GET", "/version")
        text = connection.getresponse().read().decode()
        connection.close()
        major, minor = re.search(r'"etcdcluster":"(\d+)\.(\d+)', text).groups()
        return f"{major}.{int(minor) - 1}"

    def metric(self, pattern):
        connection = http.client.HTTPConnection(self.member.address, timeout=WAIT_S)
        connection.request("GET", "/metrics")
        found = re.search(r"^" + pattern + r" (\S+)$", connection.getresponse().read().decode(), re.M)
        connection.close()
        return float(found.group(1)) if found else 0.0

    def over_http2(self, path, body, *headers):
        """With metadata and deadlines that a well-behaved library would not send, or keep itself."""
        name = os.path.join(self.cluster.dir, "request")
        with open(name, "wb") as f:
            f.write(b"\0" + len(body).to_bytes(4, "big") + body)
        args = ["nghttp", "-nv", "--no-dep", "-t", str(WAIT_S), "-d", name]
        for header in (b"content-type: application/grpc", b"te: trailers", *headers):
            args += ["-H", header]
        said = subprocess.run([*args, f"http://{self.member.address}{path}"], capture_output=True,
                              check=False, stdin=subprocess.DEVNULL).stdout
        said = re.sub(rb"\x1b\[[0-9;]*m", b"", said).decode(errors="replace")
        found = dict(re.findall(r"recv \(stream_id=\d+[^)]*\) (grpc-\w+): (.*)", said))
        if "grpc-status" not in found:
            raise Failure(f"no status from {path}: {said}")
        code = next(c for c in C if c.value[0] == int(found["grpc-status"]))
        return code, found.get("grpc-message", "").strip()


# ---- requests that are longer than a line ----

def id_in_use(s):
    """A new member's id is made of its URLs and the second: twice within one is the same."""
    for _ in range(100):
        url = s.url()
        answer = s.must(CLUSTER + "MemberAdd", msg((1, url), (2, 1)))
        outcome = s.ask(CLUSTER + "MemberAdd", msg((1, url), (2, 1)))
        s.must(CLUSTER + "MemberRemove", msg((1, fields_of(fields_of(answer)[2][0])[1][0])))
        if outcome[1] != "etcdserver: Peer URLs already exists":  # the clock went on
            break
    return outcome


def a_learner(s):
    """One that was added and has not started; it stays."""
    if not hasattr(s, "learner"):
        answer = s.must(CLUSTER + "MemberAdd", msg((1, s.url()), (2, 1)))
        s.learner = fields_of(fields_of(answer)[2][0])[1][0]
    return s.learner


def session_expired(s):
    """The lease of one who waits for a lock ends, then it would be its turn."""
    one, two = s.lease(), s.lease()
    held = fields_of(s.must(LOCK + "Lock", msg((1, "expiring"), (2, one))))[2][0]
    waiting = s.begin(LOCK + "Lock", msg((1, "expiring"), (2, two)))
    until("the second one is in line", lambda: fields_of(s.must(
        KV + "Range", msg((1, "expiring/"), (2, "expiring0"), (9, 1)))).get(4) == [2])
    s.must(LEASE + "LeaseRevoke", msg((1, two)))
    s.must(LOCK + "Unlock", msg((1, held)))
    return s.ended(waiting)


def watch_until_canceled(s):
    """What was told is seen in the server's own count: the one who canceled has left."""
    count = r'grpc_server_handled_total\{grpc_code="Canceled",grpc_method="Watch",' \
            r'grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"\}'
    before = s.metric(count)
    if s.ask("/etcdserverpb.Watch/Watch", msg((1, rng("a"))))[0] != C.OK:  # and cancels
        raise Failure("no watch")
    until("a canceled watch is counted", lambda: s.metric(count) > before)
    return C.CANCELLED, "etcdserver: watch canceled"


def own_deadline(s):
    """A client that leaves its deadline to the server. The lock is held by another one."""
    s.must(LOCK + "Lock", msg((1, "deadline"), (2, s.lease())))
    return s.over_http2(LOCK + "Lock", msg((1, "deadline"), (2, s.lease())), b"grpc-timeout: 300m")


def root_token(s):
    return Caller(s.member, login(s.caller, "root", "pw-root"))


def by_root(path, body):
    return lambda s: s.ask(path, body, root_token(s))


def old_jwt(s):
    """Made before auth changed."""
    token = login(s.caller, "rwuser", "pw-rwuser")
    root_token(s).must(auth("RoleAdd"), msg((1, "later")))
    return s.ask(KV + "Range", rng("a"), Caller(s.member, token))


def filled(s):
    for i in range(1000):
        outcome = s.ask(KV + "Put", msg((1, f"fill/{i}"), (2, b"x" * 100000)))
        if outcome[0] != C.OK:
            return outcome
    return C.OK, ""


def corrupted(s):
    s.must(MAINT + "Alarm", msg((1, 1), (2, s.member_id()), (3, CORRUPT)))
    return s.ask(KV + "Put", msg((1, "a")))


def at_learner(path, body):
    def ask(s):
        return s.ask(path, body, s.of_learner)
    ask.__name__ = f"{path} at the learner"
    return ask


def at_follower(path, make):
    def ask(s):
        follower = s.cluster.pick("follower")
        return s.ask(path, make(s, follower), Caller(follower))
    return ask


def handing_over(s):
    """Leadership is being moved to a member that does not answer: the leader takes no proposals."""
    leader = s.cluster.wait_leader()
    target, other = [m for m in s.cluster.members if m is not leader]
    target_id = s.member_id(target)
    asked, through = Caller(leader), Caller(other)
    if s.ask(KV + "Put", msg((1, "a")), through)[0] != C.OK:
        return C.UNKNOWN, "not healthy"
    pids = target.pause(["raftd"])
    try:
        move = s.begin(MAINT + "MoveLeader", msg((1, target_id)), asked)
        outcome = (C.OK, "")
        while not move.done() and outcome[0] == C.OK:
            outcome = s.ask(KV + "Put", msg((1, "a")), through)
        s.moved = s.ended(move)
    finally:
        target.resume(pids)
        s.cluster.wait_healthy()
    return outcome


def of_nobody(s):
    """The leader has written it and nobody answers: its followers were stopped just before."""
    leader = s.cluster.wait_leader()
    at_leader = Caller(leader)
    if s.ask(KV + "Put", msg((1, "a")), at_leader)[0] != C.OK:
        return C.UNKNOWN, "not healthy"
    stopped = [(m, m.pause(["etcd" if s.cluster.target.is_etcd else "raftd"]))
               for m in s.cluster.members if m is not leader]
    try:
        return s.ask(KV + "Put", msg((1, "a")), at_leader)
    finally:
        for m, pids in stopped:
            m.resume(pids)
        s.cluster.wait_healthy()


def lost_with_leader(s):
    """The leader stops with the proposal in its hands, and another one takes over."""
    leader = s.cluster.wait_leader()
    follower = s.cluster.pick("follower")
    through = Caller(follower)
    if s.ask(KV + "Put", msg((1, "a")), through)[0] != C.OK:
        return C.UNKNOWN, "not healthy"
    pids = leader.pause(["etcd"] if s.cluster.target.is_etcd else ["raftd"])
    try:
        return s.ask(KV + "Put", msg((1, "a")), through)
    finally:
        leader.resume(pids)
        s.cluster.wait_healthy()


def often(ask, want):
    """Again until it is: what happens first between the request and the fault is nobody's choice."""
    def again(s):
        last = (C.OK, "never tried")

        def attempt():
            nonlocal last
            last = ask(s)
            return last == want
        until(lambda: f"{want}, at last {last}", attempt, 120)
        return last
    return again


def no_leader_known(s):
    s.caller.metadata = [("hasleader", "true")]
    try:
        last = [(C.OK, "")]

        def asked():
            last[0] = s.ask(KV + "Range", rng("a"))
            return last[0][0] != C.UNAVAILABLE or "timed out" not in last[0][1]
        until("an answer at once", asked)
        return last[0]
    finally:
        s.caller.metadata = []


def raftd_dies(s):
    """With a proposal under way. There is no quorum, so it cannot have ended before."""
    put = s.begin(KV + "Put", msg((1, "a")))
    until("it is under way", lambda: s.metric("etcd_server_proposals_pending") > 0)
    s.member.kill("raftd")
    return s.ended(put)


def too_many(s):
    """More is committed than executed: stored is stopped, and many write."""
    calls = [s.begin(KV + "Put", msg((1, "many"), (2, str(i)))) for i in range(5100)]

    def refused():  # once all those are in the log
        calls.append(s.begin(KV + "Put", msg((1, "many"))))
        return next((o for o in (s.ended(c) for c in calls if c.done())
                     if o[1] == "etcdserver: too many requests"), None)
    return until("one is refused", refused)


def stopping(s):
    """A watch is open when the member is told to end."""
    call = s.caller.channel.stream_stream("/etcdserverpb.Watch/Watch")(
        iter_open(msg((1, rng("a")))), timeout=WAIT_S)
    next(call)
    s.member.proc.send_signal(signal.SIGTERM)
    try:
        next(call)
        return C.OK, "an answer"
    except StopIteration:
        return C.OK, ""
    except grpc.RpcError as e:
        return outcome_of(e)
    finally:
        s.member.stop()


def iter_open(*messages):
    """Requests of a stream that the client does not end."""
    yield from messages
    threading.Event().wait()


LARGE = 1572864 + 524288  # a message; what is proposed may be as large as the first of the two
TOO_LARGE = b"x" * LARGE
NO_KEYS = [(KV + "Range", msg()), (KV + "Put", msg((2, "v"))), (KV + "DeleteRange", msg()),
           (KV + "Txn", txn([compare("")])), (KV + "Txn", txn([], [op(PUT, msg())])),
           (KV + "Txn", txn([], [], [op(RANGE, msg())])),
           (KV + "Txn", txn([], [op(3, msg())])),
           (KV + "Txn", txn([], [op(4, txn([], [op(PUT, msg())]))]))]

ROWS = [
    Row(C.INVALID_ARGUMENT, "etcdserver: key is not provided", alone=NO_KEYS),
    Row(C.INVALID_ARGUMENT, "etcdserver: key not found", alone=[
        (KV + "Put", msg((1, "none"), (5, 1))), (KV + "Put", msg((1, "none"), (2, "v"), (6, 1))),
        (KV + "Txn", txn([], [b""])), (KV + "Txn", txn([], [op(PUT, msg((1, "none"), (5, 1)))]))]),
    Row(C.INVALID_ARGUMENT, "etcdserver: value is provided", alone=[
        (KV + "Put", msg((1, "a"), (2, "v"), (5, 1))),
        (KV + "Txn", txn([], [op(PUT, msg((1, "a"), (2, "v"), (5, 1)))]))]),
    Row(C.INVALID_ARGUMENT, "etcdserver: lease is provided", alone=[
        (KV + "Put", msg((1, "a"), (3, 7), (6, 1))),
        (KV + "Txn", txn([], [], [op(PUT, msg((1, "a"), (3, 7), (6, 1)))]))]),
    Row(C.INVALID_ARGUMENT, "etcdserver: too many operations in txn request", alone=[
        (KV + "Txn", txn([], [op(RANGE, rng("a"))] * 129)),
        (KV + "Txn", txn([], [], [op(RANGE, rng("a"))] * 129)),
        (KV + "Txn", txn([compare("a")] * 129))]),
    Row(C.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request", alone=[
        (KV + "Txn", txn([], [op(PUT, msg((1, "a"))), op(PUT, msg((1, "a")))])),
        (KV + "Txn", txn([], [op(PUT, msg((1, "a"))), op(3, msg((1, "a"), (2, "b")))]))]),
    Row(C.INVALID_ARGUMENT, "etcdserver: invalid client api version", conclave=[
        lambda s: s.over_http2(KV + "Range", rng("a"), b"client-api-version: 3.\xff"),
        lambda s: s.over_http2(LEASE + "LeaseKeepAlive", msg((1, 7)),
                               b"client-api-version: \xc0\x80")]),
    Row(C.INVALID_ARGUMENT, "etcdserver: invalid sort option", conclave=[
        (KV + "Range", msg((1, "a"), (5, 3))), (KV + "Range", msg((1, "a"), (6, 5))),
        (KV + "Txn", txn([], [op(RANGE, msg((1, "a"), (5, 9)))]))]),
    Row(C.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", alone=[
        lambda s: s.ask(KV + "Range", s.given(KV + "Compact", msg((1, 3)), msg((1, "a"), (4, 2)))),
        (KV + "Compact", msg((1, 3))), (KV + "Compact", msg((1, 2))),
        (KV + "Txn", txn([], [op(RANGE, msg((1, "a"), (4, 2)))])),
        (KV + "Txn", txn([], [op(PUT, msg((1, "b"))), op(RANGE, msg((1, "a"), (4, 2)))])),
        (MAINT + "HashKV", msg((1, 2)))]),
    Row(C.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision", alone=[
        (KV + "Range", msg((1, "a"), (4, 9999))), (KV + "Compact", msg((1, 9999))),
        (KV + "Txn", txn([], [op(RANGE, msg((1, "a"), (4, 9999)))])),
        (MAINT + "HashKV", msg((1, 9999)))]),
    Row(C.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", full=[
        filled, (KV + "Put", msg((1, "a"))), (LEASE + "LeaseGrant", msg((1, 60))),
        (KV + "Txn", txn([], [op(PUT, msg((1, "a")))]))]),
    Row(C.NOT_FOUND, "etcdserver: requested lease not found", alone=[
        (KV + "Put", msg((1, "a"), (3, 12345))), (LEASE + "LeaseRevoke", msg((1, 12345))),
        (KV + "Txn", txn([], [op(PUT, msg((1, "a"), (3, 12345)))]))]),
    Row(C.UNKNOWN, "etcdserver: requested lease not found", alone=[
        (LOCK + "Lock", msg((1, "l"), (2, 12345))),
        (ELECTION + "Campaign", msg((1, "e"), (2, 12345), (3, "v")))]),
    Row(C.FAILED_PRECONDITION, "etcdserver: lease already exists", alone=[
        lambda s: s.ask(LEASE + "LeaseGrant", msg((1, 60), (2, s.lease())))]),
    Row(C.OUT_OF_RANGE, "etcdserver: too large lease TTL", alone=[
        (LEASE + "LeaseGrant", msg((1, 9000000001)))]),
    Row(C.CANCELLED, "etcdserver: watch canceled", alone=[watch_until_canceled]),
    Row(C.FAILED_PRECONDITION, "etcdserver: member ID already exist", alone=[id_in_use]),
    Row(C.FAILED_PRECONDITION, "etcdserver: Peer URLs already exists", alone=[
        (CLUSTER + "MemberAdd", lambda s: msg((1, s.member.peer_url), (2, 1))),
        (CLUSTER + "MemberUpdate", lambda s: msg((1, a_learner(s)), (2, s.member.peer_url)))]),
    Row(C.UNKNOWN, "etcdserver: re-configuration failed due to not enough started members", grown=[
        (CLUSTER + "MemberAdd", lambda s: msg((1, s.url())))]),
    Row(C.INVALID_ARGUMENT, "etcdserver: given member URLs are invalid", alone=[
        (CLUSTER + "MemberAdd", msg()), (CLUSTER + "MemberAdd", msg((1, "not a URL"))),
        (CLUSTER + "MemberAdd", msg((1, "http://127.0.0.1:1/path"))),
        (CLUSTER + "MemberAdd", msg((1, "ftp://127.0.0.1:1")))]),
    Row(C.NOT_FOUND, "etcdserver: member not found", alone=[
        (CLUSTER + "MemberRemove", msg((1, 12345))),
        (CLUSTER + "MemberUpdate", msg((1, 12345), (2, "http://127.0.0.1:1"))),
        (CLUSTER + "MemberPromote", msg((1, 12345)))]),
    Row(C.FAILED_PRECONDITION, "etcdserver: can only promote a learner member", alone=[
        (CLUSTER + "MemberPromote", lambda s: msg((1, s.member_id())))]),
    Row(C.FAILED_PRECONDITION,
        "etcdserver: can only promote a learner member which is in sync with leader", alone=[
            (CLUSTER + "MemberPromote", lambda s: msg((1, a_learner(s))))]),
    Row(C.FAILED_PRECONDITION, "etcdserver: too many learner members in cluster", alone=[
        (CLUSTER + "MemberAdd", lambda s: s.given(MAINT + "Status", b"", msg(
            (1, s.url() if a_learner(s) else ""), (2, 1))))]),
    Row(C.FAILED_PRECONDITION, "etcdserver: cluster ID mismatch",
        never="etcd answers it over the peers' HTTP (hashes for the corruption check), to members "
              "of another cluster; no method of the v3 API returns it"),
    Row(C.INVALID_ARGUMENT, "etcdserver: request is too large", alone=[
        (KV + "Put", msg((1, "large"), (2, b"x" * 1572864))),
        (KV + "Txn", txn([], [op(PUT, msg((1, "large"), (2, b"x" * 1572864)))]))]),
    Row(C.UNKNOWN, "etcdserver: too many requests", stuck=[too_many]),
    Row(C.FAILED_PRECONDITION, "etcdserver: root user does not exist", alone=[
        (auth("AuthEnable"), b"")]),
    Row(C.FAILED_PRECONDITION, "etcdserver: root user does not have root role", alone=[
        lambda s: s.ask(auth("AuthEnable"), s.given(auth("UserAdd"), msg((1, "root"), (2, "p")),
                                                    b""))]),
    Row(C.FAILED_PRECONDITION, "etcdserver: user name already exists", alone=[
        (auth("UserAdd"), msg((1, "root"), (2, "p")))]),
    Row(C.INVALID_ARGUMENT, "etcdserver: user name is empty",
        alone=[(auth("UserAdd"), msg((2, "p")))],
        secured=[(KV + "Range", rng("a")), (KV + "Put", msg((1, "a"))),
                 (auth("UserList"), b"")],
        guarded=[(LEASE + "LeaseRevoke", msg((1, 7))), (MAINT + "Defragment", b""),
                 (MAINT + "HashKV", b""), (CLUSTER + "MemberList", b"")]),
    Row(C.FAILED_PRECONDITION, "etcdserver: user name not found", alone=[
        (auth("UserGet"), msg((1, "nobody"))), (auth("UserDelete"), msg((1, "nobody"))),
        (auth("UserChangePassword"), msg((1, "nobody"), (2, "p"))),
        (auth("UserGrantRole"), msg((1, "nobody"), (2, "root"))),
        (auth("UserRevokeRole"), msg((1, "nobody"), (2, "root")))]),
    Row(C.FAILED_PRECONDITION, "etcdserver: role name already exists", alone=[
        (auth("RoleAdd"), lambda s: s.given(auth("RoleAdd"), msg((1, "r")), msg((1, "r"))))]),
    Row(C.FAILED_PRECONDITION, "etcdserver: role name not found", alone=[
        (auth("RoleGet"), msg((1, "none"))), (auth("RoleDelete"), msg((1, "none"))),
        (auth("RoleGrantPermission"), msg((1, "none"), (2, msg((2, "a"))))),
        (auth("RoleRevokePermission"), msg((1, "none"), (2, "a"))),
        (auth("UserGrantRole"), msg((1, "root"), (2, "none")))]),
    Row(C.INVALID_ARGUMENT, "etcdserver: role name is empty", alone=[(auth("RoleAdd"), b"")]),
    Row(C.INVALID_ARGUMENT,
        "etcdserver: authentication failed, invalid user ID or password", secured=[
            (auth("Authenticate"), msg((1, "root"), (2, "wrong"))),
            (auth("Authenticate"), msg((1, "nobody"), (2, "wrong")))]),
    Row(C.INVALID_ARGUMENT, "etcdserver: permission not given", alone=[
        (auth("RoleGrantPermission"), msg((1, "r")))]),
    Row(C.PERMISSION_DENIED, "etcdserver: permission denied", secured=[
        lambda s: s.ask(KV + "Put", msg((1, "a")),
                        Caller(s.member, login(s.caller, "rouser", "pw-rouser"))),
        lambda s: s.ask(auth("UserList"), b"",
                        Caller(s.member, login(s.caller, "rouser", "pw-rouser")))]),
    Row(C.FAILED_PRECONDITION, "etcdserver: role is not granted to the user", alone=[
        (auth("UserRevokeRole"), msg((1, "root"), (2, "r")))]),
    Row(C.FAILED_PRECONDITION, "etcdserver: permission is not granted to the role", alone=[
        (auth("RoleRevokePermission"), msg((1, "r"), (2, "a")))]),
    Row(C.FAILED_PRECONDITION, "etcdserver: authentication is not enabled", alone=[
        (auth("Authenticate"), msg((1, "root"), (2, "p")))]),
    Row(C.UNAUTHENTICATED, "etcdserver: invalid auth token", secured=[
        lambda s: s.ask(KV + "Range", rng("a"), Caller(s.member, "abcdefghijklmnop.5"))],
        guarded=[lambda s: s.ask(LEASE + "LeaseLeases", b"", Caller(s.member, "x"))]),
    Row(C.INVALID_ARGUMENT, "etcdserver: invalid auth management",
        alone=[(auth("RoleGrantPermission"), msg((1, "r"), (2, msg((1, 0), (2, "b"), (3, "a"))))),
               (auth("RoleGrantPermission"), msg((1, "r"), (2, msg((1, 0)))))],
        secured=[by_root(auth("UserDelete"), msg((1, "root"))),
                 by_root(auth("RoleDelete"), msg((1, "root"))),
                 by_root(auth("UserRevokeRole"), msg((1, "root"), (2, "root")))]),
    Row(C.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", jwt=[old_jwt]),
    Row(C.UNAVAILABLE, "etcdserver: no leader", alone_of_3=[no_leader_known]),
    Row(C.FAILED_PRECONDITION, "etcdserver: not leader", three=[
        at_follower(MAINT + "MoveLeader", lambda s, m: msg((1, s.member_id(m))))]),
    Row(C.UNAVAILABLE, "etcdserver: leader changed", handing_over=[
        often(handing_over, (C.UNAVAILABLE, "etcdserver: leader changed"))]),
    Row(C.FAILED_PRECONDITION, "etcdserver: not capable",
        never="until the first cluster version is decided on, and never afterwards: etcd opens its "
              "client ports after that, and we let requests wait for it"),
    Row(C.UNAVAILABLE, "etcdserver: server stopped", stopped=[stopping]),
    Row(C.UNAVAILABLE, "etcdserver: request timed out", alone_of_3=[(KV + "Range", rng("a"))],
        faults=[often(of_nobody, (C.UNAVAILABLE, "etcdserver: request timed out"))]),
    Row(C.UNAVAILABLE, "etcdserver: request timed out, possibly due to previous leader failure",
        faults=[often(lost_with_leader, (
            C.UNAVAILABLE,
            "etcdserver: request timed out, possibly due to previous leader failure"))]),
    Row(C.UNAVAILABLE, "etcdserver: request timed out, possibly due to connection lost",
        alone_of_3_conclave=[raftd_dies]),
    Row(C.UNAVAILABLE,
        "etcdserver: request timed out, waiting for the applied index took too long", stuck=[
            (LEASE + "LeaseTimeToLive", msg((1, 7))), (LEASE + "LeaseKeepAlive", msg((1, 7)))]),
    Row(C.UNAVAILABLE, "etcdserver: unhealthy cluster", one_away=[often(
        # until the leader has noticed, it says what else is wrong, and nothing changes
        lambda s: s.ask(CLUSTER + "MemberAdd", msg((1, s.member.peer_url))),
        (C.UNAVAILABLE, "etcdserver: unhealthy cluster"))]),
    Row(C.DATA_LOSS, "etcdserver: corrupt cluster", corrupt=[
        corrupted, (KV + "DeleteRange", rng("a")), (KV + "Compact", msg((1, 1))),
        (KV + "Txn", txn([], [op(PUT, msg((1, "a")))])), (LEASE + "LeaseGrant", msg((1, 60))),
        (LEASE + "LeaseRevoke", msg((1, 7)))]),
    Row(C.FAILED_PRECONDITION, "etcdserver: rpc not supported for learner", old=C.UNAVAILABLE,
        learner=[at_learner(KV + "Range", rng("a")), at_learner(KV + "Put", msg((1, "a"))),
                 at_learner(CLUSTER + "MemberList", b""),
                 at_learner("/etcdserverpb.Watch/Watch", msg((1, rng("a"))))]),
    Row(C.FAILED_PRECONDITION, "etcdserver: bad leader transferee", alone=[
        (MAINT + "MoveLeader", msg((1, 12345)))]),
    Row(C.INVALID_ARGUMENT, "etcdserver: wrong downgrade target version format", alone=[
        (MAINT + "Downgrade", msg((1, VALIDATE), (2, "x"))),
        (MAINT + "Downgrade", msg((1, ENABLE), (2, "3")))]),
    Row(C.INVALID_ARGUMENT, "etcdserver: invalid downgrade target version", alone=[
        (MAINT + "Downgrade", msg((1, VALIDATE), (2, "1.0"))),
        (MAINT + "Downgrade", msg((1, ENABLE), (2, "9.9")))]),
    Row(C.FAILED_PRECONDITION, "etcdserver: cluster version not found during downgrade",
        never="until the first cluster version is decided on, as \"not capable\""),
    Row(C.FAILED_PRECONDITION, "etcdserver: cluster has a downgrade job in progress", conclave=[
        (MAINT + "Downgrade", lambda s: s.given(MAINT + "Downgrade", msg(
            (1, ENABLE), (2, s.one_below())), msg((1, ENABLE), (2, s.one_below())))),
        (MAINT + "Downgrade", lambda s: msg((1, VALIDATE), (2, s.one_below())))]),
    Row(C.FAILED_PRECONDITION, "etcdserver: no inflight downgrade job", conclave=[
        (MAINT + "Downgrade", lambda s: s.given(MAINT + "Downgrade", msg((1, CANCEL)),
                                                msg((1, CANCEL))))]),
    Row(C.CANCELLED, "etcdserver: request canceled",
        never="a unary call is canceled by who made it, and who did hears no answer"),
    Row(C.DEADLINE_EXCEEDED, "etcdserver: context deadline exceeded",
        never="a text of etcd's client library; its server says it without the prefix"),

    # what etcd's table does not name: passed on as the error was, most of it with code Unknown
    Row(C.DEADLINE_EXCEEDED, "context deadline exceeded", conclave=[own_deadline], alone_of_3=[
        (KV + "Put", msg((1, "a"))), (LEASE + "LeaseGrant", msg((1, 60))),
        (KV + "Txn", txn([], [op(PUT, msg((1, "a")))]))]),
    Row(C.CANCELLED, "context canceled",
        never="likewise for who made the call; counted, see \"watch canceled\""),
    Row(C.UNKNOWN, "etcdserver: request timed out, leader transfer took too long", handing_over=[
        lambda s: s.moved]),
    Row(C.UNKNOWN, "etcdserver: unknown method", alone=[
        (MAINT + "Downgrade", msg((1, 9), (2, "3.4")))]),
    Row(C.UNKNOWN, "auth: authentication failed, password was given for no password user", secured=[
        lambda s: s.ask(auth("Authenticate"), (root_token(s).must(
            auth("UserAdd"), msg((1, "bare"), (3, msg((1, 1))))), msg((1, "bare"), (2, "p")))[1])]),
    Row(C.UNKNOWN, "bcrypt: password length exceeds 72 bytes", alone=[
        (auth("UserAdd"), msg((1, "long"), (2, "p" * 73)))]),
    Row(C.UNKNOWN, "election: no leader", alone=[(ELECTION + "Leader", msg((1, "none")))]),
    Row(C.UNKNOWN, "election: not leader", alone=[
        (ELECTION + "Proclaim", msg((1, msg((1, "e"), (2, "e/1"), (3, 1))), (2, "v")))]),
    Row(C.UNKNOWN, '"leader" field must be provided', alone=[
        (ELECTION + "Proclaim", msg((2, "v"))), (ELECTION + "Resign", b"")]),
    Row(C.UNKNOWN, "mutex: session is expired", alone=[session_expired]),
    Row(C.UNKNOWN, "lost watcher waiting for delete",
        never="a watcher of etcd's own that ends without a reason; it gives one in every case"),
    Row(C.RESOURCE_EXHAUSTED, f"grpc: received message larger than max ({LARGE + 10} vs. {LARGE})",
        alone=[(KV + "Put", msg((1, "a"), (2, TOO_LARGE + b"xx")))]),
    Row(C.UNIMPLEMENTED, "unknown method No for service etcdserverpb.KV", alone=[(KV + "No", b"")]),
    Row(C.UNIMPLEMENTED, "unknown service no.Such", alone=[("/no.Such/Method", b"")]),
    Row(C.UNIMPLEMENTED, 'malformed method name: "/nothing"', conclave=[
        lambda s: s.over_http2("/nothing", b"")]),
    Row(C.NOT_FOUND, "unknown service", alone=[("/grpc.health.v1.Health/Check", msg((1, "x")))]),

    # our own, where etcd has no such thing or says nothing better
    Row(C.RESOURCE_EXHAUSTED, "etcdserver: watch canceled: its client is too slow",
        never="five minutes without any progress, and only as the reason inside a WatchResponse"),
    Row(C.INTERNAL, "etcdserver: internal error",
        never="one of our daemons said what another does not understand"),
    Row(C.UNIMPLEMENTED, "etcdserver: not implemented", never="every method is offered"),
    Row(C.INTERNAL, "grpc: error unmarshalling request: unexpected EOF", conclave=[
        (KV + "Put", b"\x0a\x05a"), (LEASE + "LeaseGrant", b"\xff")]),
]


# ---- scenes ----

SCENES = {}


def scene(name, seconds, only_conclave=False):
    """A function of a target that yields a Scene, and goes on when its rows have been tried."""
    def register(fn):
        def run(target):
            if target.is_etcd and only_conclave:
                return "not for etcd"
            tried, wrong = 0, []
            stage = fn(target)
            s = next(stage)
            try:
                for row in ROWS:
                    for request in row.scenes.get(name, []):
                        tried += 1
                        got, want = perform(s, request), row.expected(target)
                        what = getattr(request, "__name__", request)
                        if got != want:
                            wrong.append(f"{what}: {got}, expected {want}")
                if wrong:
                    raise Failure("\n".join(wrong))
                for _ in stage:
                    pass
            except BaseException as e:
                try:
                    stage.throw(e)
                except StopIteration:
                    pass
                raise
            return f"{tried} requests"
        SCENES[name] = run
        test("errors-" + name.replace("_", "-"), seconds)(run)
        return fn
    return register


def perform(s, request):
    try:
        if callable(request):
            return request(s)
        path, body = request
        return s.ask(path, body(s) if callable(body) else body)
    except Failure as e:
        return str(e)


def standing(members, *flags):
    """A cluster as it is."""
    def stage(target):
        with Cluster(target, members, list(flags)).start() as cluster:
            yield Scene(cluster)
            cluster.stop()
    return stage


@scene("alone", 8)
def alone(target):
    with Cluster(target, 1).start() as cluster:
        s = Scene(cluster)
        for value in "123":
            s.must(KV + "Put", msg((1, "a"), (2, value)))
        yield s
        cluster.stop()


# what releases before 3.6 did not refuse or never answered (3.5 executes an enabled downgrade and tells
# nobody), and what another HTTP/2 library words differently
scene("conclave", 5, only_conclave=True)(standing(1))


def secured(target):
    with Cluster(target, 1, [] if target.is_etcd else ["--bcrypt-cost", "4"]).start() as cluster:
        s = Scene(cluster)
        add_users(s.caller)
        yield s
        cluster.stop()


scene("secured", 8)(secured)
scene("guarded", 4, only_conclave=True)(secured)  # what earlier releases left open


@scene("jwt", 6)
def jwt(target):
    with jwt_cluster(target, "ES256", 1).start() as cluster:
        s = Scene(cluster)
        add_users(s.caller)
        yield s
        cluster.stop()


scene("full", 6)(standing(1, "--quota-backend-bytes", str(4 << 20)))
scene("corrupt", 5)(standing(1))


@scene("grown", 6)
def grown(target):
    """A second member was added and has not started."""
    with Cluster(target, 1).start() as cluster:
        s = Scene(cluster)
        s.must(CLUSTER + "MemberAdd", msg((1, s.url())))
        yield s


@scene("learner", 10)
def learner(target):
    with Cluster(target, 1).start() as cluster:
        s = Scene(cluster)
        m = Member(cluster, "n2")
        s.must(CLUSTER + "MemberAdd", msg((1, m.peer_url), (2, 1)))
        m.state = "existing"
        cluster.members.append(m)
        m.start()
        s.of_learner = Caller(m)

        def knows():
            outcome, answer = s.of_learner.call(MAINT + "Status", b"")
            return outcome[0] == C.OK and fields_of(answer).get(10) == [1]
        until("the learner has heard that it is one", knows)
        if s.ask(KV + "Range", msg((1, "a"), (7, 1)), s.of_learner)[0] != C.OK:
            raise Failure("the learner does not answer local reads")
        yield s
        cluster.stop()


scene("three", 8)(standing(3))


@scene("one_away", 10)
def one_away(target):
    with Cluster(target, 3).start() as cluster:
        s = Scene(cluster, cluster.wait_leader())
        next(m for m in cluster.members if m is not s.member).stop()
        yield s


# daemons are stopped while something is with them
scene("faults", 30)(standing(3))
scene("handing_over", 15, only_conclave=True)(standing(3))


def without_quorum(target):
    with Cluster(target, 3).start() as cluster:
        s = Scene(cluster, cluster.wait_leader())
        for m in cluster.members:
            if m is not s.member:
                m.stop()
        yield s


scene("alone_of_3", 40)(without_quorum)
scene("alone_of_3_conclave", 12, only_conclave=True)(without_quorum)


@scene("stuck", 40, only_conclave=True)
def stuck(target):
    """stored has been stopped: nothing is executed any more. Nor is it started anew meanwhile."""
    with Cluster(target, 1, ["--child-watchdog-timeout", "10m"]).start() as cluster:
        s = Scene(cluster)
        pids = s.member.pause(["stored"])
        yield s
        s.member.resume(pids)
        cluster.wait_healthy()
        cluster.stop()


@scene("stopped", 5, only_conclave=True)
def stopped(target):
    with Cluster(target, 1).start() as cluster:
        yield Scene(cluster)


def known_to_gatewayd():
    """The errors of its table, from its source."""
    with open(os.path.join(HERE, "..", "..", "gatewayd", "grpc_status.c"), encoding="utf-8") as f:
        table = f.read().split("code_names", 1)[0]
    rows = re.findall(r'GRPC_([A-Z_]+),\s*"([^"]+)"\}', table)
    return {(getattr(C, "CANCELLED" if code == "CANCELED" else code), text) for code, text in rows}


@test("errors-listed", 1)
def listed(target):
    """Every row has a request, every request is sent, and no error is missing."""
    wrong = [f"{r.code.name} {r.text}: no request" for r in ROWS if not r.never and not r.scenes]
    wrong += [f"{r.code.name} {r.text}: never, and yet asked for" for r in ROWS
              if r.never and r.scenes]
    wrong += [f"nobody plays {name}" for name in
              {name for r in ROWS for name in r.scenes} - set(SCENES)]
    pairs = [(r.code, r.text) for r in ROWS]
    wrong += [f"{p} is there twice" for p in set(pairs) if pairs.count(p) > 1]
    known = known_to_gatewayd()
    wrong += [f"{p} has no row" for p in known - set(pairs)]
    if len(known) < 60:
        wrong.append(f"only {len(known)} errors are found in grpc_status.c")
    if wrong:
        raise Failure("\n".join(wrong))
    requests = sum(len(v) for r in ROWS for v in r.scenes.values())
    return f"{len(ROWS)} errors, {requests} requests, {sum(bool(r.never) for r in ROWS)} never sent"
