"""Starts clusters of installed binaries, finds their processes, hurts them, and cleans up.

A Cluster is n members on free loopback ports with directories of their own. A Member is one
supervisor and its daemons; the harness finds the daemons in /proc as descendants of the process it
started (it makes itself the subreaper, so they stay findable when the supervisor is killed).

The same class starts Debian's etcd (Target "etcd"), which is how the harness and the checkers are
themselves tried out: there a "daemon" is the etcd process, and the harness restarts it.

Waiting is always for something that can be seen, with a deadline; see until().
"""

import ctypes
import http.client
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

# A channel whose calls fail at once is looked after by gRPC only this often; with its default of 5 s
# it never gets through a handshake while clients try again and again.
os.environ.setdefault("GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS", "20")

import grpc  # noqa: E402
from etcd3.etcdrpc import rpc_pb2 as pb  # noqa: E402
from etcd3.etcdrpc import rpc_pb2_grpc as stubs  # noqa: E402

PR_SET_CHILD_SUBREAPER = 36
DAEMONS = ("raftd", "stored", "gatewayd")
START_S = 30  # a member is up within this, on a busy machine too
HEAL_S = 30   # and back within this after a kill

ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Failure(Exception):
    """A test's expectation did not hold."""


def until(what, predicate, timeout_s=HEAL_S, pause_s=0.02):
    """Polls until predicate() is true and returns its value. `what`: a text, or what makes one."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failure(f"not within {timeout_s} s: {what() if callable(what) else what}")
        pause.wait(pause_s)


# ---- processes ----

def _stat(pid):
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            text = f.read()
    except OSError:
        return None
    name = text[text.index(b"(") + 1:text.rindex(b")")].decode(errors="replace")
    rest = text[text.rindex(b")") + 2:].split()
    return {"pid": pid, "name": name, "state": rest[0].decode(), "parent": int(rest[1]),
            "started": int(rest[19])}


def processes():
    """All processes that are not zombies, by pid."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            st = _stat(int(entry))
            if st is not None and st["state"] not in "ZX":
                found[st["pid"]] = st
    return found


def _marked(pid, mark):
    try:
        with open(f"/proc/{pid}/environ", "rb") as f:
            return mark.encode() in f.read().split(b"\0")
    except OSError:
        return False


def reap():
    """Collects orphans that became ours; Popen objects keep their own."""
    known = {m.proc.pid for c in Cluster.live for m in c.members if m.proc is not None}
    for pid, st in [(p, _stat(p)) for p in map(int, filter(str.isdigit, os.listdir("/proc")))]:
        if st and st["state"] == "Z" and st["parent"] == os.getpid() and pid not in known:
            try:
                os.waitpid(pid, os.WNOHANG)
            except OSError:
                pass


_ports = set()


def free_port():
    """A port outside the ephemeral range, so no outgoing connection takes it meanwhile."""
    while True:
        port = random.SystemRandom().randrange(11000, 32000)
        if port in _ports:
            continue
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        _ports.add(port)
        return port


# ---- what is started ----

class Target:
    def __init__(self, kind, prefix=None):
        self.kind = kind
        self.program = (os.environ.get("CLUSTER_ETCD", "/usr/bin/etcd") if kind == "etcd" else
                        os.path.join(prefix, "bin/conclave"))
        if not os.access(self.program, os.X_OK):
            sys.exit(f"{self.program} is not there; set CONCLAVE_PREFIX to where it was installed")

    @staticmethod
    def from_environment():
        if os.environ.get("CLUSTER_TARGET") == "etcd":
            return Target("etcd")
        prefix = os.environ.get("CONCLAVE_PREFIX")
        if not prefix:
            sys.exit("set CONCLAVE_PREFIX to the prefix of an installed Conclave "
                     "(or CLUSTER_TARGET=etcd to try the tests on Debian's etcd)")
        return Target("conclave", prefix)

    @property
    def is_etcd(self):
        return self.kind == "etcd"


CHANNEL_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 5000),  # how long a connection attempt may take
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]


class Client:
    """One gRPC channel to one member."""

    def __init__(self, member):
        if member.cluster.tls:
            self.channel = grpc.secure_channel(member.address, member.cluster.tls.credentials(),
                                               options=CHANNEL_OPTIONS)
        else:
            self.channel = grpc.insecure_channel(member.address, options=CHANNEL_OPTIONS)
        self.kv = stubs.KVStub(self.channel)
        self.maintenance = stubs.MaintenanceStub(self.channel)
        self.cluster = stubs.ClusterStub(self.channel)

    def close(self):
        self.channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def put(self, key, value, timeout=5):
        return self.kv.Put(pb.PutRequest(key=_b(key), value=_b(value)), timeout=timeout)

    def get(self, key, serializable=False, timeout=5):
        """The key's record, or None, and the header's revision."""
        r = self.kv.Range(pb.RangeRequest(key=_b(key), serializable=serializable), timeout=timeout)
        return (r.kvs[0] if r.kvs else None), r.header.revision

    def status(self, timeout=2):
        return self.maintenance.Status(pb.StatusRequest(), timeout=timeout)


def _b(text):
    return text.encode() if isinstance(text, str) else text


class Member:
    def __init__(self, cluster, name):
        self.cluster = cluster
        self.name = name
        self.dir = os.path.join(cluster.dir, name)
        os.makedirs(self.dir)
        self.data_dir = os.path.join(self.dir, "data")
        self.log_path = os.path.join(self.dir, "log")
        self.client_port = free_port()
        self.peer_port = free_port()
        self.address = f"127.0.0.1:{self.client_port}"
        scheme = "https" if cluster.tls else "http"
        self.client_url = f"{scheme}://{self.address}"
        self.peer_url = f"{scheme}://127.0.0.1:{self.peer_port}"
        self.mark = f"CLUSTER_TEST_MEMBER={os.path.basename(cluster.dir)}-{name}"
        self.proc = None
        self.state = "new"

    def args(self):
        c = self.cluster
        return [c.target.program, "--name", self.name, "--data-dir", self.data_dir,
                "--listen-client-urls", self.client_url,
                "--advertise-client-urls", self.client_url,
                "--listen-peer-urls", self.peer_url,
                "--initial-advertise-peer-urls", self.peer_url,
                "--initial-cluster", ",".join(f"{m.name}={m.peer_url}" for m in c.members),
                "--initial-cluster-token", os.path.basename(c.dir),
                "--initial-cluster-state", self.state] + c.flags

    def start(self):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("ETCD_", "CONCLAVE_"))}
        key, value = self.mark.split("=")
        env[key] = value
        with open(self.log_path, "ab") as log:
            log.write(f"==== start {time.time():.3f}\n".encode())
            log.flush()
            self.proc = subprocess.Popen(self.args(), stdin=subprocess.DEVNULL, stdout=log,
                                         stderr=log, env=env, cwd=self.dir,
                                         start_new_session=True)

    def log(self):
        try:
            with open(self.log_path, errors="replace") as f:
                return f.read()
        except OSError:
            return ""

    # -- its processes --

    def processes(self):
        """Every live process of this member, the supervisor included."""
        return [st for pid, st in processes().items() if _marked(pid, self.mark)]

    def pid(self, role):
        """The pid of a daemon, 0 while there is none."""
        if role == "supervisor" or self.cluster.target.is_etcd:
            return self.proc.pid if self.proc is not None and self.proc.poll() is None else 0
        for st in self.processes():
            if st["name"] == role and st["parent"] == self.proc.pid:
                return st["pid"]
        return 0

    def signal(self, role, signum):
        pid = until(f"{self.name} has a {role}", lambda: self.pid(role))
        os.kill(pid, signum)
        return pid

    def kill(self, role):
        """SIGKILL; what a supervisor would restart is restarted, also where there is none."""
        pid = self.signal(role, signal.SIGKILL)
        if role == "supervisor" or self.cluster.target.is_etcd:
            self.proc.wait()
            # a supervisor's children notice and go by themselves
            until(f"no process of {self.name} is left after its supervisor died",
                  lambda: reap() or not self.processes(), 10)
            self.start()
        else:
            until(f"{self.name}: a new {role}", lambda: self.pid(role) not in (0, pid))
        return pid

    def kill_and_recover(self, role):
        self.kill(role)
        self.wait_healthy()

    def pause(self, roles):
        return [self.signal(role, signal.SIGSTOP) for role in roles]

    def resume(self, pids):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass

    def stop(self, timeout_s=20):
        """SIGTERM and an orderly end."""
        if self.proc is None:
            return
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
        try:
            code = self.proc.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} did not stop within {timeout_s} s of SIGTERM") from None
        left = lambda: reap() or self.processes()
        until(f"{self.name}: processes left behind: {left()}", lambda: not left(), 5)
        self.proc = None
        if code not in (0, -signal.SIGTERM):  # as etcd, it re-raises the signal
            raise Failure(f"{self.name}: exit status {code} after SIGTERM")

    def destroy(self):
        """Whatever it takes, for the end of a test."""
        for _ in range(100):
            left = self.processes()
            for st in left:
                try:
                    os.kill(st["pid"], signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if self.proc is not None:
                self.proc.poll()
            reap()
            if not left:
                return
            threading.Event().wait(0.02)
        raise Failure(f"{self.name}: processes survive SIGKILL: {self.processes()}")

    def examine(self):
        """What its processes are doing, into files beside the log: a test has failed."""
        for st in self.processes():
            with open(os.path.join(self.dir, f"{st['name']}.{st['pid']}"), "w",
                      encoding="utf-8") as f:
                print(st, file=f, flush=True)
                if shutil.which("gdb") and st["state"] != "T":
                    try:
                        subprocess.run(["gdb", "-p", str(st["pid"]), "-batch", "-nx", "-ex",
                                        "thread apply all bt"], stdout=f, stderr=f,
                                       stdin=subprocess.DEVNULL, timeout=30, check=False)
                    except subprocess.TimeoutExpired:
                        print("gdb did not end", file=f)
        try:
            text = urllib.request.urlopen(self.client_url + "/metrics", timeout=3).read()
            with open(os.path.join(self.dir, "metrics"), "wb") as f:
                f.write(text)
        except (OSError, http.client.HTTPException) as e:
            print(f"{self.name}: no metrics: {e}")

    # -- what it says --

    def client(self):
        return Client(self)

    def healthy(self):
        """Serves a linearizable read on a new connection."""
        try:
            with Client(self) as c:
                c.get("health", timeout=2)
            return True
        except grpc.RpcError:
            return False

    def wait_healthy(self, timeout_s=HEAL_S):
        def look():
            if self.proc is None or self.proc.poll() is not None:
                raise Failure(f"{self.name} ended with {self.proc and self.proc.returncode}")
            return self.healthy()
        until(f"{self.name} is healthy", look, timeout_s)

    def status(self):
        try:
            with Client(self) as c:
                return c.status()
        except grpc.RpcError:
            return None

    def contents(self, revision=0):
        """Everything this member itself has, at a revision: a hashable value and the revision."""
        with Client(self) as c:
            r = c.kv.Range(pb.RangeRequest(key=b"\0", range_end=b"\0", serializable=True,
                                           revision=revision), timeout=30)
        return tuple((kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version)
                     for kv in r.kvs), r.header.revision


class Cluster:
    live = []

    def __init__(self, target, n, flags=(), tls=None):
        """tls: https:// everywhere; its credentials() are what clients connect with."""
        base = os.environ.get("CLUSTER_TEST_DIR") or tempfile.gettempdir()
        self.target = target
        self.dir = tempfile.mkdtemp(prefix="ct-", dir=base)
        self.flags = list(flags)
        self.tls = tls
        self.members = []
        for i in range(n):
            self.members.append(Member(self, f"n{i + 1}"))
        Cluster.live.append(self)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        try:
            if kind is not None:
                for m in self.members:
                    m.examine()
            for m in self.members:
                m.destroy()
        finally:
            Cluster.live.remove(self)
            if kind is None and not os.environ.get("CLUSTER_KEEP"):
                shutil.rmtree(self.dir, ignore_errors=True)
            else:
                print(f"logs and data are kept in {self.dir}", flush=True)

    def start(self):
        for m in self.members:
            m.start()
        self.wait_healthy(START_S)
        return self

    def wait_healthy(self, timeout_s=HEAL_S):
        for m in self.members:
            m.wait_healthy(timeout_s)

    def leader(self, among=None):
        """The member that those asked agree is the leader, or None."""
        asked = [(m, m.status()) for m in (among or self.members)]
        asked = [(m, st) for m, st in asked if st is not None]
        leaders = {st.leader for _, st in asked}
        if len(leaders) != 1 or 0 in leaders:
            return None
        for m, st in asked:
            if st.leader == st.header.member_id:
                return m
        return None

    def wait_leader(self, among=None, timeout_s=HEAL_S):
        return until("one leader", lambda: self.leader(among), timeout_s)

    def pick(self, which):
        leader = self.wait_leader()
        if which == "leader":
            return leader
        return next(m for m in self.members if m is not leader)

    def check_equal(self):
        """All members come to hold the same, every revision number included."""
        revision = max(m.contents()[1] for m in self.members)
        until("all members reach the same revision",
              lambda: all(m.contents()[1] >= revision for m in self.members))
        first = self.members[0].contents(revision)[0]
        for m in self.members[1:]:
            other = m.contents(revision)[0]
            if other != first:
                a, b = set(first), set(other)
                raise Failure(f"{m.name} and {self.members[0].name} differ at revision {revision}: "
                              f"{sorted(a ^ b)[:6]}")

    def stop(self):
        """An orderly end of all; nothing may be left."""
        for m in self.members:
            if m.proc is not None and m.proc.poll() is None:
                m.proc.send_signal(signal.SIGTERM)
        for m in self.members:
            m.stop()
