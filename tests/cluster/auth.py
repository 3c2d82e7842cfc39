"""Auth: every RPC with every kind of caller against a small reference model; tokens at all members;
changing, enabling and disabling under load.

Requests are written as bytes here, so that methods newer than the Python client are covered too. The
member's own metrics list every method it offers: one without a row in the table fails the test.
"""

import os
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request

import grpc

from calls import (CLUSTER, DELETE, KV, LEASE, MAINT, OK, PUT, RANGE, TXN, Caller, auth, compare, op,
                   rng, txn)
from harness import Cluster, Failure, until
from protobuf_wire import fields_of, msg
from tests import test
from tls import Certs, curl

EMPTY = (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty")
BAD_TOKEN = (grpc.StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token")
DENIED = (grpc.StatusCode.PERMISSION_DENIED, "etcdserver: permission denied")
OLD = (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: revision of auth store is old")
REFUSALS = (EMPTY, BAD_TOKEN, DENIED, OLD)


def login(caller, name, password):
    outcome, answer = caller.call(auth("Authenticate"), msg((1, name), (2, password)))
    if outcome != OK:
        raise Failure(f"logging in as {name}: {outcome}")
    return fields_of(answer)[2][0].decode()


# ---- who there is, and what they may: the model ----

READ, WRITE, READWRITE = 0, 1, 2
ROLES = {"rw": [(READWRITE, "a", "b"), (READ, "x", "")],
         "ro": [(READ, "a", "b")],
         "wo": [(WRITE, "a", "b")],
         "split": [(READWRITE, "a", "am"), (READWRITE, "am", "b"), (READ, "p", "\0")]}
USERS = {"root": ["root"], "nob": [], "rwuser": ["rw"], "rouser": ["ro"], "wouser": ["wo"],
         "union": ["split"], "both": ["ro", "wo"]}
TOP = "\U0010ffff"  # above every key used here


def bounds(key, end):
    return key, (key + "\0" if end == "" else TOP if end == "\0" else end)


def covered(user, write, key, end):
    """By looking at every point where the answer could change, nothing cleverer."""
    low, high = bounds(key, end)
    if low >= high:
        return False
    granted = [bounds(k, e) for role in USERS[user] for t, k, e in ROLES.get(role, [])
               if t == READWRITE or t == (WRITE if write else READ)]
    points = {low} | {p for pair in granted for p in pair if low <= p < high}
    return all(any(a <= p < b for a, b in granted) for p in points)


def allowed(user, need):
    if "root" in USERS[user]:
        return True
    if need in ("user", "root"):
        return need == "user"
    if isinstance(need, tuple) and need[0] == "self":
        return need[1] == user
    if isinstance(need, tuple) and need[0] == "role":
        return need[1] in USERS[user]
    return all(covered(user, kind == "w", key, end) for kind, key, end in need)


# ---- requests, and what each needs ----

class Setup:
    """What rows refer to: leases, made anew for each caller where a row may end them."""

    def __init__(self, root):
        self.root = root

    def lease(self, *keys):
        answer = self.root.must(LEASE + "LeaseGrant", msg((1, 600)))
        lease = fields_of(answer)[2][0]
        for key in keys:
            self.root.must(KV + "Put", msg((1, key), (2, "v"), (3, lease)))
        return lease


def rows(s):
    """(path, request or what makes one for a caller, need); need None: anyone."""
    a_lease, z_lease, bare = s.lease("a/lease"), s.lease("a/lz", "z/lease"), s.lease()
    r, w = "r", "w"
    yield from [
        (KV + "Range", rng("a1"), [(r, "a1", "")]),
        (KV + "Range", rng("a", "b"), [(r, "a", "b")]),
        (KV + "Range", rng("a", "bb"), [(r, "a", "bb")]),
        (KV + "Range", rng("a5", "an"), [(r, "a5", "an")]),
        (KV + "Range", rng("x"), [(r, "x", "")]),
        (KV + "Range", rng("p", "\0"), [(r, "p", "\0")]),
        (KV + "Range", rng("\0", "\0"), [(r, "\0", "\0")]),
        (KV + "Range", msg((1, "z"), (7, 1)), [(r, "z", "")]),  # serializable
        (KV + "RangeStream", rng("z"), [(r, "z", "")]),
        (KV + "Put", msg((1, "a1"), (2, "v")), [(w, "a1", "")]),
        (KV + "Put", msg((1, "a1"), (2, "v"), (4, 1)), [(w, "a1", ""), (r, "a1", "")]),
        (KV + "Put", msg((1, "x"), (2, "v")), [(w, "x", "")]),
        (KV + "Put", msg((1, "a2"), (2, "v"), (3, a_lease)), [(w, "a2", ""), (w, "a/lease", "")]),
        (KV + "Put", msg((1, "a2"), (2, "v"), (3, z_lease)), [(w, "a2", ""), (w, "z/lease", "")]),
        (KV + "DeleteRange", rng("a9"), [(w, "a9", "")]),
        (KV + "DeleteRange", rng("a9", "aa"), [(w, "a9", "aa")]),
        (KV + "DeleteRange", rng("a9", "c"), [(w, "a9", "c")]),
        (KV + "DeleteRange", msg((1, "a9"), (3, 1)), [(w, "a9", ""), (r, "a9", "")]),
        (KV + "Txn", txn(), "user"),
        (KV + "Txn", txn([compare("z")]), [(r, "z", "")]),
        (KV + "Txn", txn([compare("a", "c")]), [(r, "a", "c")]),
        (KV + "Txn", txn([compare("a1")], [op(PUT, msg((1, "a3")))], [op(RANGE, rng("x"))]),
         [(r, "a1", ""), (w, "a3", ""), (r, "x", "")]),
        (KV + "Txn", txn([], [op(PUT, msg((1, "a3")))]), [(w, "a3", "")]),
        (KV + "Txn", txn([], [op(PUT, msg((1, "a3"), (4, 1)))]), [(w, "a3", ""), (r, "a3", "")]),
        (KV + "Txn", txn([], [op(PUT, msg((1, "a3"), (3, z_lease)))]),
         [(w, "a3", ""), (w, "z/lease", "")]),
        (KV + "Txn", txn([], [op(DELETE, msg((1, "a8"), (3, 1)))]), [(w, "a8", ""), (r, "a8", "")]),
        (KV + "Txn", txn([], [], [op(TXN, txn([], [], [op(RANGE, rng("z"))]))]), [(r, "z", "")]),
        (KV + "Txn", txn([], [op(TXN, txn([compare("z")]))]), [(r, "z", "")]),
        (KV + "Txn", txn([], [], [op(TXN, txn([], [op(PUT, msg((1, "x")))]))]), [(w, "x", "")]),
        (KV + "Compact", msg((1, 1)), "root"),

        ("/etcdserverpb.Watch/Watch", msg((1, rng("a", "b"))), [(r, "a", "b")]),
        ("/etcdserverpb.Watch/Watch", msg((1, rng("a", "c"))), [(r, "a", "c")]),
        ("/etcdserverpb.Watch/Watch", msg((1, msg((1, "a1"), (6, 1)))), [(r, "a1", "")]),

        (LEASE + "LeaseGrant", msg((1, 600)), "user"),
        (LEASE + "LeaseRevoke", lambda: msg((1, s.lease("a/r"))), [(w, "a/r", "")]),
        (LEASE + "LeaseRevoke", lambda: msg((1, s.lease("a/r", "z/r"))),
         [(w, "a/r", ""), (w, "z/r", "")]),
        (LEASE + "LeaseKeepAlive", msg((1, bare)), "user"),
        (LEASE + "LeaseKeepAlive", msg((1, a_lease)), [(w, "a/lease", "")]),
        (LEASE + "LeaseKeepAlive", msg((1, z_lease)), [(w, "a/lz", ""), (w, "z/lease", "")]),
        (LEASE + "LeaseTimeToLive", msg((1, z_lease)), "user"),
        (LEASE + "LeaseTimeToLive", msg((1, a_lease), (2, 1)), [(r, "a/lease", "")]),
        (LEASE + "LeaseTimeToLive", msg((1, z_lease), (2, 1)), [(r, "a/lz", ""), (r, "z/lease", "")]),
        (LEASE + "LeaseLeases", b"", [(r, "a/lease", ""), (r, "z/lease", "")]),

        (CLUSTER + "MemberList", b"", "user"),
        (CLUSTER + "MemberAdd", msg((1, "not a URL")), "root"),
        (CLUSTER + "MemberRemove", msg((1, 12345)), "root"),
        (CLUSTER + "MemberUpdate", msg((1, 12345), (2, "http://127.0.0.1:1")), "root"),
        (CLUSTER + "MemberPromote", msg((1, 12345)), "root"),

        (MAINT + "Alarm", b"", "user"),
        (MAINT + "Alarm", msg((1, 2), (2, 12345), (3, 2)), "root"),
        (MAINT + "Status", b"", "user"),
        (MAINT + "Defragment", b"", "root"),
        (MAINT + "Hash", b"", "root"),
        (MAINT + "HashKV", b"", "root"),
        (MAINT + "Snapshot", b"", "root"),
        (MAINT + "MoveLeader", msg((1, 12345)), "root"),
        (MAINT + "Downgrade", msg((1, 9), (2, "1.0")), "root"),

        (auth("Authenticate"), msg((1, "nobody"), (2, "x")), None),
        (auth("AuthStatus"), b"", "root"),
        (auth("AuthEnable"), b"", "root"),
        (auth("UserAdd"), msg((1, "new"), (2, "pw")), "root"),
        (auth("UserGet"), msg((1, "rouser")), ("self", "rouser")),
        (auth("UserGet"), msg((1, "root")), ("self", "root")),
        (auth("UserList"), b"", "root"),
        (auth("UserDelete"), msg((1, "missing")), "root"),
        (auth("UserChangePassword"), msg((1, "missing"), (2, "pw")), "root"),
        (auth("UserGrantRole"), msg((1, "missing"), (2, "rw")), "root"),
        (auth("UserRevokeRole"), msg((1, "missing"), (2, "rw")), "root"),
        (auth("RoleAdd"), msg((1, "rw")), "root"),
        (auth("RoleGet"), msg((1, "rw")), ("role", "rw")),
        (auth("RoleGet"), msg((1, "ro")), ("role", "ro")),
        (auth("RoleList"), b"", "root"),
        (auth("RoleDelete"), msg((1, "missing")), "root"),
        (auth("RoleGrantPermission"), msg((1, "missing"), (2, msg((2, "a")))), "root"),
        (auth("RoleRevokePermission"), msg((1, "missing"), (2, "a")), "root"),
        (auth("AuthDisable"), b"", "last"),

        ("/v3lockpb.Lock/Lock", lambda: msg((1, "z/lock"), (2, s.lease())), [(w, "z/lock", "")]),
        ("/v3lockpb.Lock/Unlock", msg((1, "z/lock/1")), [(w, "z/lock/1", "")]),
        ("/v3electionpb.Election/Campaign", lambda: msg((1, "z/e"), (2, s.lease()), (3, "v")),
         [(w, "z/e", "")]),
        ("/v3electionpb.Election/Proclaim", msg((1, msg((1, "z/e"), (2, "z/e/1"), (3, 1))), (2, "v")),
         [(w, "z/e/1", "")]),
        ("/v3electionpb.Election/Leader", msg((1, "z/e")), [(r, "z/e/", "z/e0")]),
        ("/v3electionpb.Election/Observe", msg((1, "z/e")), [(r, "z/e/", "z/e0")]),
        ("/v3electionpb.Election/Resign", msg((1, msg((1, "z/e"), (2, "z/e/1"), (3, 1)))),
         [(w, "z/e/1", "")]),
        ("/grpc.health.v1.Health/Check", b"", None),
        ("/grpc.health.v1.Health/List", b"", None),
        ("/grpc.health.v1.Health/Watch", b"", None),
    ]


STREAMS = ("Watch", "LeaseKeepAlive", "Snapshot", "Observe", "RangeStream")
WAITS = ("/v3lockpb.", "/v3electionpb.")  # somebody else may hold it: waiting means allowed


def refusal_in(answer):
    """A watch that is refused is answered, not ended: created, canceled and why."""
    text = (fields_of(answer).get(6) or [b""])[0].decode()
    found = re.fullmatch(r"rpc error: code = (\w+) desc = (.*)", text)
    if not found:
        return OK
    code = re.sub(r"(?<!^)(?=[A-Z])", "_", found.group(1)).upper()
    return grpc.StatusCode[code], found.group(2)


def ask(caller, path, request):
    waits = path.startswith(WAITS)
    if path.rsplit("/", 1)[1] in STREAMS:
        outcome, answer = caller.first_of_stream(path, request, 2 if waits else 10)
        if outcome == OK and path.endswith("Watch/Watch"):
            outcome = refusal_in(answer)
    else:
        outcome, _ = caller.call(path, request, 2 if waits else 10)
    if waits:  # these services are clients of their own in etcd: the text is what counts
        for refusal in REFUSALS:
            if outcome[1] == refusal[1]:
                return refusal
    return outcome


def add_users(root):
    for role, permissions in ROLES.items():
        root.must(auth("RoleAdd"), msg((1, role)))
        for kind, key, end in permissions:
            root.must(auth("RoleGrantPermission"),
                      msg((1, role), (2, msg((1, kind), (2, key), (3, end)))))
    for user, roles in USERS.items():
        root.must(auth("UserAdd"), msg((1, user), (2, "pw-" + user)))
        for role in roles:
            root.must(auth("UserGrantRole"), msg((1, user), (2, role)))
    root.must(auth("AuthEnable"), b"")


def methods_of(member):
    with urllib.request.urlopen(member.client_url + "/metrics", timeout=5) as f:
        text = f.read().decode()
    found = re.findall(r'^grpc_server_started_total\{([^}]*)\}', text, re.M)
    labels = [dict(re.findall(r'(\w+)="([^"]*)"', one)) for one in found]
    return {f"/{one['grpc_service']}/{one['grpc_method']}" for one in labels}


@test("auth-table", 40)
def auth_table(target):
    flags = [] if target.is_etcd else ["--bcrypt-cost", "4"]
    with Cluster(target, 1, flags + ["--auth-token-ttl", "3"]).start() as cluster:
        member = cluster.members[0]
        nobody = Caller(member)
        add_users(nobody)
        expired = login(nobody, "root", "pw-root")
        probe = Caller(member, expired)
        if probe.call(KV + "Range", rng("a"))[0] != OK:
            raise Failure("a new token is not good")
        # unused until it expired: asking for it would keep it alive, so another one is watched
        gone = time.monotonic() + 4
        until("a token's time is over", lambda: time.monotonic() > gone)
        wrong = expired[:-1] + ("1" if expired[-1] != "1" else "2")
        callers = [("none", nobody, EMPTY)]
        for name, token in (("unknown", "abcdefghijklmnop.5"), ("malformed", "x"), ("empty", ""),
                            ("expired", expired), ("tampered", wrong)):
            callers.append((name, Caller(member, token), BAD_TOKEN))
        tokens = {}

        def caller_of(user):  # tokens are short-lived here
            if time.monotonic() - tokens.get(user, (0, None))[0] > 1:
                tokens[user] = (time.monotonic(), Caller(member, login(nobody, user, "pw-" + user)))
            return tokens[user][1]

        class Root:
            must = staticmethod(lambda path, request: caller_of("root").must(path, request))

        wrong_answers, absent, cells, seen = [], [], 0, set()

        def expect(name, path, request, outcome, want):
            nonlocal cells
            cells += 1
            good = outcome == want if want else outcome not in REFUSALS
            if not good:
                wrong_answers.append(f"{path} {request!r} as {name}: {outcome}, expected "
                                     f"{want or 'not to be refused'}")

        for path, request, need in rows(Setup(Root)):
            seen.add(path)
            if target.is_etcd and need not in (None,) and not path.startswith(KV):
                continue
            make = request if callable(request) else lambda request=request: request
            probe = ask(caller_of("root"), path, make()) if need != "last" else OK
            if probe[0] == grpc.StatusCode.UNIMPLEMENTED:
                absent.append(path)
                continue
            for name, caller, refusal in callers:
                body = make()
                expect(name, path, body, ask(caller, path, body), refusal if need else None)
            for user in USERS:
                if need == "last":
                    if user != "root":
                        expect(user, path, b"", ask(caller_of(user), path, b""), DENIED)
                    continue
                body = make()
                want = None if need is None or allowed(user, need) else DENIED
                expect(user, path, body, ask(caller_of(user), path, body), want)
        if not target.is_etcd:
            missing = methods_of(member) - seen
            if missing:
                wrong_answers.append(f"not in the table: {sorted(missing)}")
            health = urllib.request.urlopen(member.client_url + "/health", timeout=5).status
            if health != 200:
                wrong_answers.append(f"/health: {health}")
        Root.must(auth("AuthDisable"), b"")
        if nobody.call(KV + "Range", rng("z"))[0] != OK:
            wrong_answers.append("off does not mean open")
        if wrong_answers:
            raise Failure("\n".join(wrong_answers))
        log = member.log()
        if re.search("pw-", log):
            raise Failure("a password is in the log")
        cluster.stop()
        return f"{cells} calls, {len(seen)} methods" + (f", not offered: {absent}" if absent else "")


def files_with(directory, text):
    """Files below the directory that hold these bytes."""
    found = []
    for root, _, names in os.walk(directory):
        for name in names:
            try:
                with open(os.path.join(root, name), "rb") as f:
                    if text in f.read():
                        found.append(name)
            except OSError:
                pass
    return found


@test("auth-tokens-of-3", 15)
def auth_tokens(target):
    """A token from one member is good at every other at once, and the password is nowhere on disk."""
    flags = [] if target.is_etcd else ["--bcrypt-cost", "4"]
    with Cluster(target, 3, flags).start() as cluster:
        cluster.wait_leader()
        callers = [Caller(m) for m in cluster.members]
        add_users(callers[0])
        for round_ in range(10):
            token = login(callers[round_ % 3], "rwuser", "pw-rwuser")
            for m in cluster.members:
                outcome, _ = Caller(m, token).call(KV + "Range", rng("a"))
                if outcome != OK:
                    raise Failure(f"the token of round {round_} at {m.name}: {outcome}")
        root = Caller(cluster.members[1], login(callers[1], "root", "pw-root"))
        root.must(auth("UserChangePassword"), msg((1, "rwuser"), (2, "pw-other")))
        for m in cluster.members:
            until(f"{m.name} has dropped the token",
                  lambda m=m: Caller(m, token).call(KV + "Range", rng("a"))[0] == BAD_TOKEN)
        login(callers[2], "rwuser", "pw-other")
        root.must(auth("AuthDisable"), b"")
        cluster.stop()
        for m in cluster.members:
            for text in (b"pw-rwuser", b"pw-other", token.split(".")[0].encode()):
                if files_with(m.data_dir, text) and not target.is_etcd:
                    raise Failure(f"{text!r} is in {files_with(m.data_dir, text)} of {m.name}")
        return "10 tokens, 3 members"


@test("auth-under-load", 12)
def auth_under_load(target):
    """Rights change and auth goes on and off under writers: whoever is allowed is never refused for
    long, nothing that is refused is written, and nothing else happens to anybody."""
    flags = [] if target.is_etcd else ["--bcrypt-cost", "4"]
    with Cluster(target, 3, flags).start() as cluster:
        cluster.wait_leader()
        boss = Caller(cluster.members[0])
        add_users(boss)
        root = Caller(cluster.members[0], login(boss, "root", "pw-root"))
        stop, done, bad = threading.Event(), [0, 0], []

        def writer(member, user, key, may, token):
            count = 0
            while not stop.is_set():
                count += 1
                outcome, _ = Caller(member, token).call(KV + "Put", msg((1, key), (2, str(count))))
                done[0] += outcome == OK
                if outcome in (BAD_TOKEN, OLD, EMPTY):
                    done[1] += 1
                    try:
                        token = login(Caller(member), user, "pw-" + user)
                    except Failure as e:
                        if "not enabled" not in str(e):
                            bad.append(str(e))
                elif outcome == DENIED and may:
                    bad.append(f"{user} was refused {key}")
                elif outcome not in (OK, DENIED):
                    bad.append(f"{user}: {outcome}")

        threads = [threading.Thread(target=writer, args=(*args, login(boss, args[1], "pw-" + args[1])))
                   for args in (
            (cluster.members[1], "rwuser", "a-load", True),
            (cluster.members[2], "both", "a-load2", True),
            (cluster.members[1], "rouser", "a-forbidden", False))]
        for t in threads:
            t.start()
        for i in range(30):  # every change makes what is under way old
            root.must(auth("RoleAdd"), msg((1, f"extra{i}")))
            root.must(auth("UserGrantRole"), msg((1, "nob"), (2, f"extra{i}")))
        forbidden = root.must(KV + "Range", rng("a-forbidden"))
        if 2 in fields_of(forbidden):
            bad.append("what was refused was written")
        for _ in range(3):
            root.must(auth("AuthDisable"), b"")
            boss.must(KV + "Range", rng("z"))
            boss.must(auth("AuthEnable"), b"")
            root = Caller(cluster.members[0], login(boss, "root", "pw-root"))
            if boss.call(KV + "Range", rng("z"))[0] != EMPTY:
                bad.append("nobody is let in after enabling")
        written = done[0]
        until("the writers go on", lambda: done[0] > written + 20)
        stop.set()
        for t in threads:
            t.join()
        root.must(auth("AuthDisable"), b"")
        if bad:
            raise Failure("\n".join(bad[:10]))
        for m in cluster.members:
            until(f"{m.name} is open again",
                  lambda m=m: Caller(m).call(KV + "Range", rng("z"))[0] == OK)
        cluster.check_equal()
        cluster.stop()
        return f"{done[0]} writes, {done[1]} new logins"


def jwt_cluster(target, method, n=2):
    """Keys are made where the members' directories are."""
    cluster = Cluster(target, n, [] if target.is_etcd else ["--bcrypt-cost", "4"])
    private, public = os.path.join(cluster.dir, "jwt.key"), os.path.join(cluster.dir, "jwt.pub")
    curve = ["ec_paramgen_curve:P-256"] if method.startswith("ES") else ["rsa_keygen_bits:2048"]
    subprocess.run(["openssl", "genpkey", "-algorithm", "EC" if method.startswith("ES") else "RSA",
                    "-pkeyopt", *curve, "-out", private], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True,
                   capture_output=True)
    cluster.flags += ["--auth-token",
                      f"jwt,pub-key={public},priv-key={private},sign-method={method},ttl=10m"]
    return cluster


@test("auth-jwt", 15)
def auth_jwt(target):
    """A JWT is good at every member and after their restart, until auth changes."""
    for method in ("RS256", "PS256", "ES256"):
        with jwt_cluster(target, method).start() as cluster:
            cluster.wait_leader()
            first, second = cluster.members
            nobody = Caller(first)
            add_users(nobody)
            token = login(nobody, "rwuser", "pw-rwuser")
            if token.count(".") != 2:
                raise Failure(f"{token} is no JWT")
            get, put = (KV + "Range", rng("a")), (KV + "Put", msg((1, "x"), (2, "v")))

            def expect(member, token, what, want):
                outcome, _ = Caller(member, token).call(*what)
                if outcome != want:
                    raise Failure(f"{method} at {member.name}: {outcome}, expected {want}")

            for m in (first, second):
                expect(m, token, get, OK)
                expect(m, token, put, DENIED)
                expect(m, token[:-8] + ("AAAAAAAA" if token[-8:] != "AAAAAAAA" else "BBBBBBBB"), get,
                       BAD_TOKEN)
                expect(m, "eyJhbGciOiJub25lIn0." + token.split(".")[1] + ".", get, BAD_TOKEN)
            if not target.is_etcd:
                first.kill("stored")  # and the token goes on being good
                until("stored is back", lambda: Caller(first, token).call(*get)[0] == OK)
            root = Caller(first, login(nobody, "root", "pw-root"))
            root.must(auth("RoleAdd"), msg((1, "later")))
            expect(first, token, get, OLD)
            until("the other member knows too",
                  lambda: Caller(second, token).call(*get)[0] == OLD)
            expect(second, login(Caller(second), "rwuser", "pw-rwuser"), get, OK)
            Caller(first, login(nobody, "root", "pw-root")).must(auth("AuthDisable"), b"")
            cluster.stop()
    return "RS256, PS256, ES256"


@test("auth-common-name", 8)
def auth_common_name(target):
    """With client-cert-auth a verified certificate names its user to gRPC, and not to the gateway."""
    with Certs() as certs:
        for user in ("root", "rouser", "ghost"):
            certs.sign(user, "ca", user)
        with Cluster(target, 1, certs.flags, tls=certs).start() as cluster:
            member = cluster.members[0]
            certs.client = "root"
            boss = Caller(member, credentials=certs.credentials())
            add_users(boss)
            # nobody showed a token: these are who their certificates say
            expected = {"root": (OK, OK), "rouser": (OK, DENIED), "ghost": (DENIED, DENIED),
                        "client": (DENIED, DENIED)}
            for name, wanted in expected.items():
                certs.client = name
                caller = Caller(member, credentials=certs.credentials())
                got = (caller.call(KV + "Range", rng("a"))[0],
                       caller.call(KV + "Put", msg((1, "a1"), (2, name)))[0])
                if got != wanted:
                    raise Failure(f"{name}: {got}, expected {wanted}")
            token = login(boss, "rouser", "pw-rouser")
            certs.client = "root"
            caller = Caller(member, token, credentials=certs.credentials())
            if caller.call(KV + "Put", msg((1, "a1"), (2, "v")))[0] != DENIED:
                raise Failure("the certificate went before the token")
            caller = Caller(member, credentials=certs.credentials())
            caller.metadata = [("grpcgateway-accept", "application/json")]
            if caller.call(KV + "Range", rng("a"))[0] != EMPTY:
                raise Failure("a gateway's certificate named a user")
            if not target.is_etcd:
                r = curl(certs, member.client_url + "/v3/kv/range", "--cert",
                             certs.path("root.pem"), "--key", certs.path("root.key"), "-d",
                             '{"key":"YQ=="}', "-o", "-", "-w", " %{http_code}")
                if "CommonName of client" not in r.stdout or not r.stdout.endswith(" 400"):
                    raise Failure(f"through the gateway: {r.stdout}")
            boss.must(auth("AuthDisable"), b"")
            cluster.stop()
    return f"{len(expected)} certificates"
