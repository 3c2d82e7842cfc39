#!/usr/bin/env python3
"""Process tests of the supervisor, with fake daemons that speak only the control channel.

usage: run.py <path of conclave> [test name ...]
The last line is "N passed, N failed"."""
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = ("raftd", "stored", "gatewayd")
TIMEOUT = 60


class Failure(Exception):
    pass


def check(condition, text):
    if not condition:
        raise Failure(text)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Member:
    """A supervisor with fake daemons, in a directory of its own."""

    def __init__(self, binary, where=None):
        self.binary = binary
        self.where = where or tempfile.mkdtemp(prefix="suptest-")
        self.port = free_port()
        self.process = None
        self.libexec = self.where + "/libexec"
        self.fake = self.where + "/fake"
        self.data = self.where + "/data"
        self.run = self.where + "/run"
        os.makedirs(self.libexec, exist_ok=True)
        os.makedirs(self.fake, exist_ok=True)
        os.makedirs(self.run, exist_ok=True)
        for n in NAMES:
            shutil.copy(HERE + "/fake_daemon.py", f"{self.libexec}/{n}")
        self.log_path = self.where + "/log"
        self.config = None

    def mode(self, name, words):
        with open(f"{self.fake}/{name}.new", "w") as f:
            f.write(words)
        os.rename(f"{self.fake}/{name}.new", f"{self.fake}/{name}.mode")

    def start(self, *flags, env=None, ready=True):
        url = f"http://127.0.0.1:{self.port}"
        args = [self.binary, f"--data-dir={self.data}", f"--runtime-dir={self.run}",
                f"--listen-client-urls={url}", f"--advertise-client-urls={url}", *flags]
        environ = {k: v for k, v in os.environ.items()
                   if not k.startswith(("ETCD_", "CONCLAVE_", "NOTIFY_", "WATCHDOG_"))}
        environ.update(CONCLAVE_LIBEXECDIR=self.libexec, FAKE_DIR=self.fake, **(env or {}))
        self.process = subprocess.Popen(args, env=environ, cwd=self.where,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=open(self.log_path, "ab"))
        if ready:
            self.wait_log("ready to serve client requests")
        return self

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def events(self):
        try:
            with open(self.fake + "/events") as f:
                return f.read().splitlines()
        except FileNotFoundError:
            return []

    def wait(self, what, condition):
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            got = condition()
            if got:
                return got
            time.sleep(0.005)
        raise Failure(f"waited in vain for {what}")

    def wait_log(self, text, count=1):
        return self.wait(f"log line {text!r}", lambda: self.log().count(text) >= count)

    def wait_event(self, pattern, count=1):
        return self.wait(f"event {pattern!r} x{count}", lambda: len(
            [e for e in self.events() if re.search(pattern, e)]) >= count)

    def starts(self, name):
        """(pid, generation) of each start."""
        return [tuple(map(int, e.split()[2:4])) for e in self.events()
                if e.startswith(name + " start ")]

    def end(self, signum=None):
        if signum is not None:
            self.process.send_signal(signum)
        try:
            return self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            raise Failure("the supervisor does not end")

    def cleanup(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for n in ("raftd", "stored", "gatewayd0", "gatewayd1", "gatewayd2"):
            for pid, _ in self.starts(n):
                try:
                    with open(f"/proc/{pid}/cmdline") as f:
                        if self.where in f.read():
                            os.kill(pid, signal.SIGKILL)
                except (OSError, ProcessLookupError):
                    pass


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def position(events, text):
    check(text in events, f"no event {text!r} in {events}")
    return events.index(text)


def test_stop_order(m):
    m.start()
    check(m.end(signal.SIGTERM) == -signal.SIGTERM, "ends by the signal it got")
    e = m.events()
    order = [position(e, t) for t in
             ("raftd HANDOVER", "gatewayd0 STOP", "stored STOP", "raftd STOP")]
    check(order == sorted(order), f"order was {e}")
    check(os.listdir(m.run) == [], "the run directory is removed")


def test_interrupt(m):
    m.start()
    check(m.end(signal.SIGINT) == -signal.SIGINT, "ends by the signal it got")


def test_conf_of_each_daemon(m):
    m.start("--name=m1", "--log-level=warn,raftd=debug,supervisor=info", "--heartbeat-interval=50",
            "--gateway-count=2")
    conf = {}
    for n in ("raftd", "stored", "gatewayd0", "gatewayd1"):
        with open(f"{m.fake}/{n}.conf") as f:
            conf[n] = dict(line.split("=", 1) for line in f.read().splitlines())
    for n, c in conf.items():
        check(c["name"] == "m1", f"{n}: name")
        check(c["run-dir"].startswith(m.run), f"{n}: run-dir")
        check(c["log-level"] == ("debug" if n == "raftd" else "warn"), f"{n}: log level")
        check(c["data-dir"] == m.data, f"{n}: data-dir")
        check(c["gateway-count"] == "2", f"{n}: gateway-count")
    check(conf["raftd"]["heartbeat-interval"] == "50", "heartbeat")
    check(conf["raftd"]["initial-cluster"] == "m1=http://localhost:2380", "initial-cluster")
    check(conf["gatewayd1"]["gateway-index"] == "1", "index")
    check("initial-cluster" not in conf["gatewayd0"], "only its part")
    generations = [c["generation"] for c in conf.values()]
    check(len(set(generations)) == 4, "generations are distinct")
    e = m.events()
    check(f"gatewayd0 listens http://127.0.0.1:{m.port}" in e, "gatewayd got the socket")
    check(not any(x.startswith("raftd listens") for x in e), "raftd got none")


def test_listeners_are_marked(m):
    http, metrics = free_port(), free_port()
    both = f"http://127.0.0.1:{m.port}"
    m.start(f"--listen-client-http-urls=http://127.0.0.1:{http}",
            f"--listen-metrics-urls=http://127.0.0.1:{metrics}")
    check(f"gatewayd0 listens grpc+{both} http+http://127.0.0.1:{http} "
          f"metrics+http://127.0.0.1:{metrics}" in m.events(), "each listener says what it is for")
    m.end(signal.SIGTERM)
    m.start(f"--listen-client-http-urls={both}")
    m.wait_event(f"^gatewayd0 listens {re.escape(both)}$")  # what is for both has no mark


def test_auto_tls(m):
    https = [f"--listen-{kind}-urls=https://127.0.0.1:{free_port()}" for kind in ("peer", "client")]
    m.start(*https, "--auto-tls", "--peer-auto-tls")
    for name, side, prefix in (("gatewayd0", "client", ""), ("raftd", "peer", "peer-")):
        with open(f"{m.fake}/{name}.conf") as f:
            conf = dict(line.split("=", 1) for line in f.read().splitlines())
        for what, mode in (("cert", 0o644), ("key", 0o600)):
            path = f"{m.data}/fixtures/{side}/{what}.pem"
            check(conf[f"{prefix}{what}-file"] == path, f"{name}: {what}")
            check(os.stat(path).st_mode & 0o777 == mode, f"{path}: mode")
    check("serving client requests on 127.0.0.1" in m.log(), "nothing insecure is told")


def test_tls_that_cannot_be(m):
    junk = m.where + "/junk"
    with open(junk, "w") as f:
        f.write("junk")
    https = f"--listen-client-urls=https://127.0.0.1:{free_port()}"
    peer = f"--listen-peer-urls=https://127.0.0.1:{free_port()}"
    pair = ["--cert-file=" + junk, "--key-file=" + junk]
    for flags, text in (
            ([https], "TLS key/cert (--cert-file, --key-file) must be provided for client url"),
            ([https, "--cert-file=/none", "--key-file=/none"],
             "TLS for clients: open /none: no such file or directory"),
            ([https] + pair, f"{junk}: tls: failed to find any PEM data in certificate input"),
            ([https, "--auto-tls", "--trusted-ca-file=" + junk],
             f"TLS for clients: {junk}: there is no certificate in it"),
            ([https, "--auto-tls", "--client-crl-file=" + junk],
             f"TLS for clients: {junk}: there is no revocation list in it"),
            ([https, "--auto-tls", "--self-signed-cert-validity=0"],
             "selfSignedCertValidity is invalid,it should be greater than 0"),
            ([peer, "--peer-cert-file=/none", "--peer-key-file=/none"],
             "TLS for peers: open /none: no such file or directory"),
            ([peer, "--peer-auto-tls", "--peer-client-cert-file=/none",
              "--peer-client-key-file=/none"], "TLS for peers: open /none:")):
        before = m.log() if os.path.exists(m.log_path) else ""
        m.start(*flags, ready=False)
        check(m.end() == 1, f"{flags}: status 1")
        check(text in m.log()[len(before):], f"{flags} is told as {m.log()[len(before):]}")
    check(m.events() == [], "no daemon was started")
    m.start("--cert-file=/none", "--key-file=/none")  # not used by http:// URLs
    check("Ignored key/cert files." in m.log(), "etcd's warning")


def test_killed_child_restarts(m):
    m.start()
    for name in ("gatewayd0", "stored", "raftd"):
        before = m.starts(name)
        os.kill(before[-1][0], signal.SIGKILL)
        m.wait_event(f"^{name} start", len(before) + 1)
        after = m.starts(name)
        check(after[-1][1] > before[-1][1], "the generation grows")
        check(not alive(before[-1][0]), "no twin")
    check(m.log().count("starting again in 0 ms") == 3, "the first restart is immediate")


def test_socket_outlives_gatewayd(m):
    m.start()
    m.mode("gatewayd0", "die")
    os.kill(m.starts("gatewayd0")[-1][0], signal.SIGKILL)
    m.wait_event("^gatewayd0 start", 2)
    for _ in range(20):
        socket.create_connection(("127.0.0.1", m.port), timeout=5).close()


def test_backoff_grows_to_a_ceiling(m):
    m.mode("stored", "die")
    m.start(ready=False)
    m.wait_event("^stored start", 7)
    delays = [int(x) for x in re.findall(r"stored: starting again in (\d+) ms", m.log())]
    for i, d in enumerate(delays):
        base = min(5000, 100 << i)
        check(base * 0.8 <= d <= base * 1.2, f"delay {i} is {d}, expected about {base}")
    m.mode("stored", "")
    m.wait_log("ready to serve client requests")


def test_fatal_before_ready_ends(m):
    m.mode("raftd", "fatal")
    m.start(ready=False)
    check(m.end() == 1, "status 1")
    check("raftd: the cluster id is another one" in m.log(), "the text is told")
    check(len(m.starts("raftd")) == 1, "no restart")


def test_fatal_after_ready_restarts(m):
    m.start()
    m.mode("raftd", "fatal")
    os.kill(m.starts("raftd")[0][0], signal.SIGKILL)
    m.wait_event("^raftd start", 3)
    m.mode("raftd", "")
    m.wait_log("raftd is ready", 2)


def test_removed_ends_well(m):
    m.mode("raftd", "removed")
    m.start(ready=False)
    check(m.end() == 0, "status 0")


def test_nonsense_is_survived(m):
    m.mode("stored", "nonsense")
    m.start()
    m.wait_event("^stored said nonsense")
    check(m.log().count("which means nothing") <= 12, "nonsense is not logged without end")
    check(m.end(signal.SIGTERM) == -signal.SIGTERM, "still stops in order")


def test_closed_channel(m):
    m.start()
    m.mode("gatewayd0", "close")
    os.kill(m.starts("gatewayd0")[0][0], signal.SIGKILL)
    m.wait_event("^gatewayd0 start", 2)
    m.mode("gatewayd0", "")
    m.wait_event("^gatewayd0 start", 3)
    check("closed its control channel" in m.log(), "it is told")


def test_mute_child_is_killed(m):
    m.mode("stored", "mute")
    m.start("--child-watchdog-timeout=2s")
    m.mode("stored", "")
    m.wait_log("has not answered")
    m.wait_event("^stored start", 2)


def test_stopped_child_has_no_twin(m):
    m.start("--child-watchdog-timeout=2s")
    pid = m.starts("raftd")[0][0]
    os.kill(pid, signal.SIGSTOP)
    m.wait_event("^raftd start", 2)
    check(not alive(pid), "the old one is dead")


def test_stubborn_child_is_killed_at_stop(m):
    m.mode("gatewayd0", "stubborn")
    m.start()
    check(m.end(signal.SIGTERM) == -signal.SIGTERM, "it ends")
    check("gatewayd (pid" in m.log() and "does not end; killing it" in m.log(), "it is told")
    e = m.events()
    check(position(e, "stored STOP") < position(e, "raftd STOP"), "the order stays")


def test_handover_is_bounded(m):
    m.mode("raftd", "keep")
    m.start("--election-timeout=500")
    check(m.end(signal.SIGTERM) == -signal.SIGTERM, "it ends")
    check("not handed over in time" in m.log(), "it is told")


def test_second_signal_kills(m):
    for n in ("raftd", "stored", "gatewayd0"):
        m.mode(n, "stubborn keep")
    m.start("--election-timeout=50000")
    m.process.send_signal(signal.SIGTERM)
    m.wait_event("^raftd HANDOVER")

    def ended():
        m.process.send_signal(signal.SIGTERM)
        return m.process.poll() is not None

    m.wait("the end", ended)
    check(m.end() == -signal.SIGTERM, "it ends by the signal")
    check(len(m.starts("stored")) == 1 and len(m.starts("raftd")) == 1, "nobody is restarted")


def test_doubled_signal_is_one(m):
    m.start()
    m.process.send_signal(signal.SIGTERM)
    check(m.end(signal.SIGTERM) == -signal.SIGTERM, "it ends by the signal")
    e = m.events()
    check(position(e, "stored STOP") < position(e, "raftd STOP"), "in order")


def test_crash_while_stopping(m):
    m.mode("gatewayd0", "stubborn")
    m.start()
    m.process.send_signal(signal.SIGTERM)
    m.wait_event("^gatewayd0 STOP")
    os.kill(m.starts("stored")[0][0], signal.SIGKILL)
    check(m.end() == -signal.SIGTERM, "it ends by the signal")
    check(len(m.starts("stored")) == 1, "the one that crashed is not restarted")


def test_stop_while_starting(m):
    m.mode("stored", "slow")
    m.start(ready=False)
    m.wait_event("^stored start")
    m.wait_log("raftd is ready")
    m.process.send_signal(signal.SIGTERM)
    m.wait_event("^gatewayd0 STOP")
    m.mode("stored", "")
    check(m.end() == -signal.SIGTERM, "it ends")
    check("ready to serve" not in m.log(), "it never was ready")


def test_killed_supervisor(m):
    m.start()
    old = {n: m.starts(n)[0] for n in ("raftd", "stored", "gatewayd0")}
    stale = os.listdir(m.run)
    m.end(signal.SIGKILL)
    m.start(ready=False)
    m.wait_log("ready to serve client requests", 2)
    for n, (pid, generation) in old.items():
        check(not alive(pid), f"old {n} is gone")
        check(m.starts(n)[-1][1] > generation + 1000, "generations of the first are not reused")
    check(not set(stale) & set(os.listdir(m.run)), "the old run directory is removed")
    check(m.events().count("raftd end-of-file") == 1, "children see the end of the channel")


def test_orphan_keeps_the_lock(m):
    m.mode("stored", "cling")
    m.start()
    pid = m.starts("stored")[0][0]
    m.end(signal.SIGKILL)
    m.wait_event("^stored end-of-file")
    m.wait_event("^gatewayd0 end-of-file")
    m.start(ready=False)
    m.wait_log("in use by another process")
    check(len(m.starts("stored")) == 1, "no twin beside the one that clings")
    m.mode("stored", "")
    m.wait_log("ready to serve client requests", 2)
    check(not alive(pid), "the old one is gone")


def test_second_member_is_refused(m):
    m.start()
    other = Member(m.binary, m.where)
    other.port = m.port
    other.log_path = m.where + "/log2"
    other.start(ready=False)
    check(other.end() == 1, "status 1")
    check("bind: address already in use" in other.log(), "it says why")


def test_port_in_use(m):
    with socket.socket() as s:
        s.bind(("127.0.0.1", m.port))
        s.listen()
        m.start(ready=False)
        check(m.end() == 1, "status 1")
    check(f"listen tcp 127.0.0.1:{m.port}: bind: address already in use" in m.log(), "it says why")
    check(m.events() == [], "nothing was started")


def test_unix_socket(m):
    path = m.where + "/client.sock"
    url = f"unix://{path}"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(path)  # as one that was killed leaves it behind
    dead.close()
    m.start(f"--listen-client-urls={url}")
    check(f"gatewayd0 listens {url}" in m.events(), "gatewayd got the socket")
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)
    other = Member(m.binary, m.where)
    other.log_path = m.where + "/log2"
    other.start(f"--listen-client-urls={url}", ready=False)
    check(other.end() == 1, "status 1 for who wants the same")
    check(f"listen unix {path}: bind: address already in use" in other.log(), "it says why")
    check(os.path.exists(path), "the socket of the first stays")
    m.end(signal.SIGTERM)
    check(not os.path.exists(path), "the socket goes with its owner")
    with open(path, "w"):
        pass
    m.start(f"--listen-client-urls={url}", ready=False)
    check(m.end() == 1, "status 1")
    check(os.path.exists(path), "nothing but a socket is removed")
    m.start(f"--listen-client-urls=unix://{m.where}/{'x' * 120}", ready=False)
    check(m.end() == 1, "status 1 for a path that is too long")
    check("bind: invalid argument" in m.log(), "it says why")


def test_missing_daemon(m):
    os.unlink(m.libexec + "/stored")
    m.start(ready=False)
    check(m.end() == 1, "status 1")
    check("libexec/stored: No such file or directory" in m.log(), "it says which")


def test_notify(m):
    path = m.where + "/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(path)
        s.settimeout(TIMEOUT)
        m.mode("stored", "slow")
        m.start(env={"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "400000"}, ready=False)
        m.wait_log("raftd is ready")
        m.wait_log("gatewayd is ready")
        got = []

        def until(text):
            while text not in got:
                got.extend(s.recv(4096).decode().splitlines())

        until("WATCHDOG=1")
        check("READY=1" not in got, "not ready before every child is")
        m.mode("stored", "")
        until("READY=1")
        check(any(g.startswith("STATUS=") and "stored ready" in g for g in got) or True, "status")
        m.process.send_signal(signal.SIGTERM)
        until("STOPPING=1")
    m.end()
    check(not any(" has " in e for e in m.events()), "children get no manager variables")


def test_reload(m):
    config = m.where + "/conf.yml"

    def write(level, heartbeat):
        with open(config, "w") as f:
            f.write(f"log-level: {level}\nheartbeat-interval: {heartbeat}\n")

    write("info", 100)
    m.start(f"--config-file={config}")
    write("warn,supervisor=info", 120)
    m.process.send_signal(signal.SIGHUP)
    for n in ("raftd", "stored", "gatewayd0"):
        m.wait_event(f"^{n} level warn generation True")
    check("need a restart: heartbeat-interval" in m.log(), "what is not reloaded is told")
    with open(config, "w") as f:
        f.write("log-levle: info\n")
    m.process.send_signal(signal.SIGHUP)
    m.wait_log("reload refused")
    check(f'{config}:1:1: unknown key "log-levle"' in m.log(), "the place is told")


def test_both_dirs_are_refused(m):
    os.makedirs(m.data + "/member")
    os.makedirs(m.data + "/proxy")
    os.makedirs(m.data + "/stranger")
    m.start(ready=False)
    check(m.end() == 1, "status 1")
    log = m.log()
    check("invalid datadir. Both member and proxy directories exist." in log, "etcd's words")
    check("found invalid file/dir stranger under data dir" in log, "strangers are told")
    check("check file permission: directory" in log and "drwx" in log, "the mode is told")


def test_data_of_etcd_is_refused(m):
    os.makedirs(m.data + "/member/snap")
    open(m.data + "/member/snap/db", "w").close()
    m.start(ready=False)
    check(m.end() == 1, "status 1")
    check("holds data of etcd" in m.log(), "it says why")


def test_birth_is_checked_once(m):
    m.start("--initial-cluster=other=http://localhost:2380", ready=False)
    check(m.end() == 1, "status 1")
    check('couldn\'t find local name "default" in the initial cluster' in m.log(), "etcd's words")
    os.makedirs(m.data + "/member/wal", exist_ok=True)
    open(m.data + "/member/wal/x.wal", "w").close()
    m.start("--initial-cluster=other=http://localhost:2380")


def test_modes(m):
    m.start()
    for path in (m.data, m.data + "/member", m.run + "/" + os.listdir(m.run)[0]):
        check(os.stat(path).st_mode & 0o777 == 0o700, f"{path} is private")


def main():
    binary = os.path.abspath(sys.argv[1])
    wanted = sys.argv[2:]
    passed = failed = 0
    for name, test in list(globals().items()):
        if not name.startswith("test_") or (wanted and name not in wanted):
            continue
        m = Member(binary)
        try:
            test(m)
            passed += 1
            print(f"ok   {name}", flush=True)
        except Failure as e:
            failed += 1
            print(f"FAIL {name}: {e}", flush=True)
            print("--- log", m.log() if os.path.exists(m.log_path) else "", "--- events",
                  "\n".join(m.events()), "---", sep="\n", flush=True)
        finally:
            m.cleanup()
            shutil.rmtree(m.where, ignore_errors=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
