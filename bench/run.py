#!/usr/bin/env python3
"""The comparison: Conclave and etcd in turn (A B A B) on this machine, same settings, same disk, same load.

    bench/run.py                                  Conclave from the build's prefix, etcd from PATH
    bench/run.py --etcd "$(bench/fetch_etcd35.sh)" --conclave /usr/local
    bench/run.py --server etcd34=/usr/bin/etcd --server etcd35=/tmp/etcd35/root/usr/bin/etcd

For each server and round: fresh data directories, start, fill the key space, then the workloads with
conclave-bench. CPU is utime + stime of the whole process tree of all members, before and after each
workload; memory is the PSS of the same processes after the fill and a fixed number of puts, before anything
whose amount depends on speed. One workload is repeated with h2load and a canned body: two generators that share no code
should agree. Results: a table, --json and --markdown.
"""
import argparse
import json
import os
import re
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
TICKS = os.sysconf("SC_CLK_TCK")
SHAPES = [(1, 1), (100, 1), (100, 10)]
# name, workload, shapes, more options
WORKLOADS = [
    ("put, distinct keys", "put", SHAPES, []),
    ("put, one key", "put-one", SHAPES, []),
    ("get, linearizable", "get", SHAPES, []),
    ("get, serializable", "get-serializable", SHAPES, []),
    ("txn, compare and put", "txn", SHAPES, []),
    ("mixed, 80 % get", "mixed", [(100, 10)], []),
    ("range of 1000", "range", [(1, 1), (10, 2)], []),
    ("lease keep-alive", "lease-keepalive", SHAPES, []),
    ("lease grant", "lease-grant", SHAPES, []),  # last: what it grants stays
]
HEALTH_S = 60


# ---- servers ----

class Server:
    """One kind of server: a name, a binary with etcd's flags."""

    def __init__(self, name, path):
        self.name = name
        self.path = path

    def version(self):
        out = subprocess.run([self.path, "--version"], capture_output=True, text=True, timeout=20)
        first = (out.stdout or out.stderr).strip().splitlines()
        return first[0] if first else "?"


def free_ports(count):
    """Ports that were free a moment ago."""
    sockets = []
    for _ in range(count):
        s = socket.socket()
        s.bind(("127.0.0.1", 0))
        sockets.append(s)
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Certificates:
    """An authority and a certificate of 127.0.0.1, for servers and their peers."""

    CONFIG = """
[req]
distinguished_name = name
prompt = no
x509_extensions = authority
[name]
CN = conclave-bench
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[member]
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = IP:127.0.0.1, DNS:localhost
"""

    def __init__(self, directory):
        os.makedirs(directory, exist_ok=True)
        self.ca, self.cert, self.key = (os.path.join(directory, n) for n in ("ca.pem", "cert.pem", "key.pem"))
        config, ca_key, request = (os.path.join(directory, n) for n in ("openssl.cnf", "ca.key", "cert.csr"))
        with open(config, "w") as f:
            f.write(self.CONFIG)
        new = ["req", "-config", config, "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        for command in (new + ["-x509", "-days", "7", "-keyout", ca_key, "-out", self.ca],
                        new + ["-subj", "/CN=member", "-keyout", self.key, "-out", request],
                        ["x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", ca_key, "-CAcreateserial",
                         "-days", "7", "-extfile", config, "-extensions", "member", "-out", self.cert]):
            out = subprocess.run(["openssl"] + command, capture_output=True, text=True)
            if out.returncode != 0:
                raise RuntimeError(f"openssl {' '.join(command)}: {out.stderr.strip()}")

    def flags(self):
        return ["--cert-file", self.cert, "--key-file", self.key, "--peer-cert-file", self.cert,
                "--peer-key-file", self.key, "--peer-trusted-ca-file", self.ca]


class Cluster:
    """Running members of one server; certificates: with TLS for clients and peers."""

    def __init__(self, server, members, directory, extra, certificates=None, split_http=False):
        self.certificates = certificates
        self.split_http = split_http
        self.scheme = "https" if certificates else "http"
        self.server = server
        self.members = members
        self.directory = directory
        self.extra = extra
        self.processes = []
        self.endpoints = []
        self.http_endpoints = []  # where /health is

    def start(self):
        ports = free_ports(3 * self.members)
        clients, peers, http = (ports[i * self.members:(i + 1) * self.members] for i in range(3))
        initial = ",".join(f"m{i}={self.scheme}://127.0.0.1:{p}" for i, p in enumerate(peers))
        os.makedirs(self.directory, exist_ok=True)
        for i in range(self.members):
            client, peer = f"{self.scheme}://127.0.0.1:{clients[i]}", f"{self.scheme}://127.0.0.1:{peers[i]}"
            command = [
                self.server.path, "--name", f"m{i}", "--data-dir", f"{self.directory}/m{i}",
                "--listen-client-urls", client, "--advertise-client-urls", client,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", initial, "--initial-cluster-state", "new",
                "--quota-backend-bytes", str(8 << 30),
            ] + (self.certificates.flags() if self.certificates else []) + self.extra
            if self.split_http:
                command += ["--listen-client-http-urls", f"{self.scheme}://127.0.0.1:{http[i]}"]
            log = open(f"{self.directory}/m{i}.log", "wb")
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
            log.close()
            self.endpoints.append(f"127.0.0.1:{clients[i]}")
            self.http_endpoints.append(f"127.0.0.1:{http[i] if self.split_http else clients[i]}")
        self.wait_healthy()

    def wait_healthy(self):
        end = time.monotonic() + HEALTH_S
        context = ssl.create_default_context(cafile=self.certificates.ca) if self.certificates else None
        for endpoint in self.http_endpoints:
            while True:
                for i, p in enumerate(self.processes):
                    if p.poll() is not None:
                        raise RuntimeError(f"{self.server.name} m{i} ended with status {p.returncode}: "
                                           + self.log_tail(i))
                try:
                    with urllib.request.urlopen(f"{self.scheme}://{endpoint}/health", timeout=2, context=context) as r:
                        if b"true" in r.read():
                            break
                except OSError:
                    pass
                if time.monotonic() > end:
                    raise RuntimeError(f"{self.server.name} is not healthy after {HEALTH_S} s: "
                                       + self.log_tail(0))
                time.sleep(0.05)

    def log_tail(self, i):
        with open(f"{self.directory}/m{i}.log", "rb") as f:
            return f.read()[-2000:].decode(errors="replace")

    def stop(self):
        for p in self.processes:
            if p.poll() is None:
                p.send_signal(signal.SIGTERM)
        for p in self.processes:
            try:
                p.wait(20)
            except subprocess.TimeoutExpired:
                for pid in sorted(tree([p.pid]), reverse=True):
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                p.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def pids(self):
        return tree([p.pid for p in self.processes])

    def cpu_s(self):
        """User and system time so far, of living processes and of children already waited for."""
        total = 0
        for pid in self.pids():
            try:
                fields = stat_fields(pid)
            except OSError:
                continue
            total += sum(int(x) for x in fields[11:15])
        return total / TICKS

    def memory(self):
        pss = rss = 0
        for pid in self.pids():
            try:
                with open(f"/proc/{pid}/smaps_rollup") as f:
                    text = f.read()
            except OSError:
                continue
            pss += int(re.search(r"^Pss:\s+(\d+)", text, re.M).group(1))
            rss += int(re.search(r"^Rss:\s+(\d+)", text, re.M).group(1))
        return {"pss_mb": pss / 1024, "rss_mb": rss / 1024}


def stat_fields(pid):
    """Of /proc/PID/stat, from the state on: the name may hold blanks."""
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rsplit(")", 1)[1].split()


def tree(roots):
    children = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            children.setdefault(int(stat_fields(name)[1]), []).append(int(name))
        except OSError:
            continue
    found, todo = [], list(roots)
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def disk_mb(directory):
    total = 0
    for base, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.stat(os.path.join(base, name)).st_blocks * 512
            except OSError:
                pass
    return total / 1e6


# ---- load ----

def bench_command(args, cluster):
    return ([args.bench, "--json", "--endpoints", ",".join(cluster.endpoints)]
            + (["--cacert", cluster.certificates.ca] if cluster.certificates else []))


def bench(args, cluster, options):
    command = bench_command(args, cluster) + options
    before = cluster.cpu_s()
    out = subprocess.run(command, capture_output=True, text=True)
    after = cluster.cpu_s()
    if out.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {out.stderr.strip() or out.stdout.strip()}")
    result = json.loads(out.stdout)
    result["server_cpu_us"] = (after - before) * 1e6 / max(result["requests"], 1)
    return result


def watch_bench(args, cluster, options):
    """Per event instead of per put: that is what servers differ in."""
    result = bench(args, cluster, ["--workload", "watch-fanout", "--watchers", str(args.watchers),
                                   "--connections", str(args.watch_connections)] + options)
    result["server_cpu_us"] *= result["requests"] / max(result.get("events", 0), 1)
    result["put_rate"], result["rate"] = result["rate"], result.get("event_rate", 0)
    return result


def watcher_memory(args, cluster):
    """What the servers' memory grows by while watchers are there and nothing happens."""
    time.sleep(args.settle)
    before = cluster.memory()
    command = bench_command(args, cluster) + ["--workload", "watch-idle", "--watchers", str(args.watchers),
                                              "--connections", str(args.watch_connections)]
    p = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        ready = p.stdout.readline()
        time.sleep(args.settle)
        after = cluster.memory()
    finally:
        _, errors = p.communicate()
    if ready.strip() != "ready" or p.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {errors.strip()}")
    return {field: after[field] - before[field] for field in before}


def varint(n):
    out = b""
    while n >= 128:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def grpc_body(fields):
    message = b"".join(bytes([tag << 3 | 2]) + varint(len(v)) + v for tag, v in fields)
    return b"\0" + len(message).to_bytes(4, "big") + message


KEY = b"bench/000000000000"
CANNED = {
    "put-one": ("/etcdserverpb.KV/Put", lambda size: grpc_body([(1, KEY), (2, b"x" * size)])),
    "get": ("/etcdserverpb.KV/Range", lambda size: grpc_body([(1, KEY)])),
}


def h2load(args, cluster, workload, connections, streams, requests):
    path, body = CANNED[workload]
    with tempfile.NamedTemporaryFile() as f:
        f.write(body(args.value_size))
        f.flush()
        command = ["h2load", "-n", str(requests), "-c", str(connections), "-m", str(streams), "-t", "1",
                   "-d", f.name, "-H", "content-type: application/grpc", "-H", "te: trailers",
                   f"{cluster.scheme}://{cluster.endpoints[0]}{path}"]
        before = cluster.cpu_s()
        out = subprocess.run(command, capture_output=True, text=True)
        after = cluster.cpu_s()
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", out.stdout)
    done = re.search(r"(\d+) succeeded", out.stdout)
    if not rate or not done or int(done.group(1)) != requests:
        raise RuntimeError(f"h2load: {out.stdout}{out.stderr}")
    return {"rate": float(rate.group(1)), "server_cpu_us": (after - before) * 1e6 / requests}


def run_server(args, server, members, directory, certificates):
    """Everything for one fresh cluster: a dict of row name -> numbers."""
    rows = {}
    cluster = Cluster(server, members, directory, args.extra, certificates, args.split_http)
    seconds = str(args.seconds)
    common = ["--key-space", str(args.keys), "--value-size", str(args.value_size)]

    def note(name, result):
        rows[name] = result
        errors = f"  errors {result['errors']}" if result.get("errors") else ""
        say(f"  {server.name:12} {name:38} {result['rate']:10.0f}/s"
            f"  p50 {result.get('p50_us', 0):9.0f} us  p99 {result.get('p99_us', 0):9.0f} us"
            f"  cpu {result['server_cpu_us']:8.1f} us{errors}")

    def wanted(workload):
        return not args.only or workload in args.only

    cluster.start()
    try:
        if args.watchers and wanted("watch-idle"):  # first: no memory of earlier work to use again
            name = f"memory, growth by {args.watchers} idle watchers"
            rows[name] = watcher_memory(args, cluster)
            say(f"  {server.name:12} {name}: {rows[name]['pss_mb']:.1f} MB PSS, {rows[name]['rss_mb']:.1f} MB RSS")
        bench(args, cluster, common + ["--fill", "--workload", "get", "--total", "100"])
        bench(args, cluster, common + ["--workload", "put", "--connections", "100", "--streams", "10",
                                       "--total", str(args.memory_puts)])
        time.sleep(args.settle)
        memory = cluster.memory()
        memory["disk_mb"] = disk_mb(directory)
        rows["memory"] = memory
        say(f"  {server.name:12} memory after {args.keys} keys and {args.memory_puts} puts:"
            f" {memory['pss_mb']:.0f} MB PSS, {memory['rss_mb']:.0f} MB RSS, {memory['disk_mb']:.0f} MB on disk")
        for title, workload, shapes, options in WORKLOADS:
            if not wanted(workload):
                continue
            for connections, streams in shapes:
                note(f"{title}, {connections}x{streams}",
                     bench(args, cluster, common + options + [
                         "--workload", workload, "--connections", str(connections), "--streams",
                         str(streams), "--duration", seconds]))
        for rate in args.rates:
            note(f"put at {rate}/s, 100x1",
                 bench(args, cluster, common + ["--workload", "put", "--connections", "100", "--rate",
                                                str(rate), "--duration", seconds]))
        if args.watchers and wanted("watch-fanout"):
            shape = f"{args.watchers} watchers on {args.watch_connections} connections"
            value = ["--value-size", str(args.value_size), "--duration", seconds]
            note(f"watch fan-out, events, {shape}", watch_bench(args, cluster, value))
            note(f"watch fan-out, events, {args.watch_rate} puts/s, {shape}",
                 watch_bench(args, cluster, value + ["--rate", str(args.watch_rate)]))
        if members == 1 and not args.no_h2load:
            for workload in ("put-one", "get"):
                ours = bench(args, cluster, common + ["--workload", workload, "--key-space", "1",
                                                      "--connections", "100", "--streams", "10",
                                                      "--duration", seconds])
                theirs = h2load(args, cluster, workload, 100, 10, max(int(ours["requests"]), 1000))
                note(f"cross-check {workload}, conclave-bench", ours)
                note(f"cross-check {workload}, h2load", theirs)
        if args.count_keys and wanted("count"):
            many = ["--key-space", str(args.count_keys), "--value-size", str(args.value_size)]
            bench(args, cluster, many + ["--fill", "--workload", "get", "--total", "100"])
            for connections, streams in [(1, 1), (10, 1)]:
                note(f"count of {args.count_keys} keys, {connections}x{streams}",
                     bench(args, cluster, many + ["--workload", "count", "--connections",
                                                  str(connections), "--streams", str(streams),
                                                  "--duration", seconds]))
            rows["memory, all keys"] = dict(cluster.memory(), disk_mb=disk_mb(directory))
    finally:
        cluster.stop()
    return rows


# ---- report ----

def say(text):
    print(text, flush=True)


def median(rounds, row, field):
    values = [r[row][field] for r in rounds if row in r and field in r[row]]
    return statistics.median(values) if values else None


def number(v, digits=0):
    return "-" if v is None else f"{v:,.{digits}f}"


def ratio(a, b):
    return "-" if not a or not b else f"{a / b:.2f}x"


def row_names(rounds):
    names = []
    for r in rounds:
        names += [n for n in r if n not in names]
    return names


def tables(results, servers, members):
    """Markdown lines: the first server against each other one."""
    first = servers[0]
    lines = []
    for other in servers[1:] or [None]:
        shown = [first] + ([other] if other else [])
        rounds = {s.name: results[str(members)][s.name] for s in shown}
        head = ["workload"]
        for s in shown:
            head += [f"{s.name} /s", "p50 ms", "p99 ms", "CPU us"]
        if other:
            head += ["rate ratio", "p99 ratio", "CPU ratio"]
        lines += ["| " + " | ".join(head) + " |", "|" + " --- |" + " ---: |" * (len(head) - 1)]
        for name in row_names(rounds[first.name]):
            if name.startswith("memory"):
                continue
            cells = [name]
            for s in shown:
                r = rounds[s.name]
                p50, p99 = median(r, name, "p50_us"), median(r, name, "p99_us")
                cells += [number(median(r, name, "rate")), number(p50 and p50 / 1000, 2),
                          number(p99 and p99 / 1000, 2), number(median(r, name, "server_cpu_us"), 1)]
            if other:
                cells += [ratio(median(rounds[first.name], name, field), median(rounds[other.name], name, field))
                          for field in ("rate", "p99_us", "server_cpu_us")]
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", "| memory | " + " | ".join(f"{s.name} PSS MB | RSS MB | disk MB" for s in shown)
                  + (" | PSS ratio |" if other else " |"),
                  "|" + " --- |" + " ---: |" * (3 * len(shown) + bool(other))]
        for name in row_names(rounds[first.name]):
            if not name.startswith("memory"):
                continue
            cells = [name]
            for s in shown:
                cells += [number(median(rounds[s.name], name, f), 1 if "growth" in name else 0)
                          for f in ("pss_mb", "rss_mb", "disk_mb")]
            if other:
                cells.append(ratio(median(rounds[first.name], name, "pss_mb"),
                                   median(rounds[other.name], name, "pss_mb")))
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def machine():
    info = {"kernel": os.uname().release, "processors": os.cpu_count(), "model": "?",
            "date": time.strftime("%Y-%m-%d")}
    with open("/proc/cpuinfo") as f:
        m = re.search(r"^model name\s*:\s*(.*)", f.read(), re.M)
    if m:
        info["model"] = m.group(1)
    return info


def report(args, results, servers):
    lines = []
    m = machine()
    lines += [f"{m['date']}, {m['processors']} processors ({m['model']}), Linux {m['kernel']}; "
              f"{args.rounds} rounds in turn, medians; {args.seconds} s per workload; values of "
              f"{args.value_size} bytes, {args.keys} keys. CPU is that of all server processes together, "
              "per request. Servers and load generator share the machine. "
              + ("TLS for clients and peers. " if args.tls else "")
              + ("Ports for HTTP of their own. " if args.split_http else "") + "Of watch fan-out, rate and CPU are those "
              "of delivered events, p50 and p99 the time from a put to its last delivery.", ""]
    lines += [f"- {s.name}: {s.version()}" for s in servers] + [""]
    for members in args.members:
        lines += [f"### {members} member{'s' if members > 1 else ''}", ""]
        lines += tables(results, servers, members)
    text = "\n".join(lines)
    say("")
    say(text)
    if args.markdown:
        with open(args.markdown, "w") as f:
            f.write(text)
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"machine": m, "servers": {s.name: s.version() for s in servers},
                       "results": results}, f, indent=1)


# ---- options ----

def find_bench():
    for path in (os.path.join(os.getcwd(), "bench/conclave-bench"),
                 os.path.join(HERE, "conclave-bench"),
                 os.path.join(HERE, "../build/bench/conclave-bench")):
        if os.access(path, os.X_OK):
            return os.path.abspath(path)
    return None


def find_conclave(prefix):
    candidates = [os.path.join(prefix, "bin/conclave")] if prefix else []
    if not prefix:
        candidates = [p for p in [shutil.which("conclave"), "/usr/local/bin/conclave"] if p]
    for path in candidates:
        if os.access(path, os.X_OK):
            return path
    return None


def pick_servers(args):
    servers = []
    for spec in args.server:
        name, sep, path = spec.partition("=")
        if not sep or not os.access(path, os.X_OK):
            sys.exit(f"run.py: --server {spec}: NAME=PATH of a program is wanted")
        servers.append(Server(name, path))
    if servers:
        return servers
    conclave = find_conclave(args.conclave)
    if not conclave:
        sys.exit("run.py: no conclave found: give --conclave PREFIX (of make install)")
    servers.append(Server("conclave", conclave))
    for path in args.etcd or [shutil.which("etcd")]:
        if not path or not os.access(path, os.X_OK):
            sys.exit("run.py: no etcd found: give --etcd PATH")
        server = Server("etcd", path)
        version = re.search(r"\d+\.\d+", server.version())
        server.name = "etcd " + (version.group(0) if version else "?")
        servers.append(server)
    return servers


def parse_args():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--conclave", metavar="PREFIX", help="prefix Conclave was installed to")
    p.add_argument("--etcd", metavar="PATH", action="append", help="etcd binary, may be repeated")
    p.add_argument("--server", metavar="NAME=PATH", action="append", default=[],
                   help="instead of the two above: any programs with etcd's flags; ratios are of the first")
    p.add_argument("--tls", action="store_true", help="TLS for clients and peers, certificates made by openssl")
    p.add_argument("--split-http", action="store_true",
                   help="gRPC and HTTP on ports of their own, with which etcd is faster over TLS")
    p.add_argument("--extra", metavar="FLAG", action="append", default=[], help="flag for every server")
    p.add_argument("--bench", default=find_bench(), help="path of conclave-bench")
    p.add_argument("--members", type=int, action="append", choices=(1, 3, 5), help="default 1 and 3")
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--seconds", type=float, default=5, help="per workload")
    p.add_argument("--settle", type=float, default=2, help="seconds before memory is read")
    p.add_argument("--keys", type=int, default=100000)
    p.add_argument("--value-size", type=int, default=256)
    p.add_argument("--memory-puts", type=int, default=200000, help="puts before memory is read")
    p.add_argument("--count-keys", type=int, default=1000000, help="keys of the counted prefix, 0: skip")
    p.add_argument("--watchers", type=int, default=10000, help="of one key, 0: no watch workloads")
    p.add_argument("--watch-connections", type=int, default=100, help="that the watchers are spread over")
    p.add_argument("--watch-rate", type=float, default=4, help="open-loop puts per second of the watched key")
    p.add_argument("--rates", type=int, action="append", help="open-loop puts per second (default 2000)")
    p.add_argument("--only", action="append", help="only these workloads (put, get, ..., count, watch-idle, watch-fanout)")
    p.add_argument("--no-h2load", action="store_true")
    p.add_argument("--quick", action="store_true", help="one short round: does everything work?")
    p.add_argument("--dir", help="where data directories go (default: a directory under /var/tmp)")
    p.add_argument("--json", metavar="FILE")
    p.add_argument("--markdown", metavar="FILE")
    args = p.parse_args()
    args.members = args.members or [1, 3]
    args.rates = [2000] if args.rates is None else args.rates
    if args.only and args.rates == [2000]:
        args.rates = []
    if args.quick:
        args.rounds, args.seconds, args.settle = 1, 1.0, 0.5
        args.keys, args.memory_puts, args.count_keys = 10000, 10000, min(args.count_keys, 50000)
        args.watchers = min(args.watchers, 1000)
    if not args.bench:
        sys.exit("run.py: conclave-bench is not built: make bench/conclave-bench, or --bench PATH")
    if not args.no_h2load and not shutil.which("h2load"):
        say("run.py: no h2load (package nghttp2-client): no cross-check")
        args.no_h2load = True
    return args


def main():
    args = parse_args()
    servers = pick_servers(args)
    base = tempfile.mkdtemp(prefix="conclave-bench-", dir=args.dir or "/var/tmp")
    results = {str(m): {s.name: [] for s in servers} for m in args.members}
    try:
        certificates = Certificates(os.path.join(base, "tls")) if args.tls else None
        for members in args.members:
            for i in range(args.rounds):
                for server in servers:
                    say(f"round {i + 1}, {members} member(s), {server.name}")
                    results[str(members)][server.name].append(
                        run_server(args, server, members, os.path.join(base, "data"), certificates))
    finally:
        shutil.rmtree(base, ignore_errors=True)
    report(args, results, servers)


if __name__ == "__main__":
    main()
