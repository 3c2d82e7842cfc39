#!/usr/bin/python3
"""What a snapshot costs the puts beside it: snapshot.py --server NAME=PROGRAM [--server ...]

One member on a fresh directory, filled with --gigabytes of history. Then, --rounds times: puts alone, and puts while a client saves
snapshots one after the other. Prints rate and p99 of both and their ratios; PROGRAM is anything with etcd's flags.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PORT = 23790


def start(program, directory, log):
    client, peer = f"http://127.0.0.1:{PORT}", f"http://127.0.0.1:{PORT + 1}"
    return subprocess.Popen(
        [program, "--name", "m1", "--data-dir", os.path.join(directory, "data"),
         "--listen-client-urls", client, "--advertise-client-urls", client,
         "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
         "--initial-cluster", f"m1={peer}", "--quota-backend-bytes", str(16 << 30)],
        stdout=log, stderr=log, start_new_session=True)


def ctl(*args):
    return subprocess.run(["etcdctl", "--endpoints", f"127.0.0.1:{PORT}"] + list(args),
                          env=dict(os.environ, ETCDCTL_API="3"), stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def wait_healthy():
    deadline = time.monotonic() + 30
    while ctl("get", "nothing").returncode != 0:
        if time.monotonic() > deadline:
            raise SystemExit("the server does not answer")


def puts(args, *more):
    out = subprocess.run([args.bench, "--endpoints", f"127.0.0.1:{PORT}", "--workload", "put",
                          "--connections", "8", "--streams", "8", "--json"] + list(more),
                         stdout=subprocess.PIPE, check=True, text=True).stdout
    return json.loads(out)


class Saving:
    """Snapshots, one after the other, until stopped; the one under way is finished."""

    def __init__(self, path):
        self.path = path
        self.stopping = threading.Event()
        self.seconds = []
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.stopping.is_set():
            began = time.monotonic()
            if ctl("snapshot", "save", self.path).returncode != 0:
                raise SystemExit("snapshot save failed")
            self.seconds.append(time.monotonic() - began)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()


def measure(args, name, program):
    directory = tempfile.mkdtemp(prefix="snapshot-bench-", dir=args.dir)
    with open(os.path.join(directory, "log"), "wb") as log:
        server = start(program, directory, log)
        try:
            wait_healthy()
            keys = int(args.gigabytes * 1e9 / 1100)
            puts(args, "--fill", "--key-space", str(keys), "--value-size", "1024", "--total", "1")
            load = ["--key-space", str(keys), "--value-size", "256",
                    "--duration", str(args.seconds)]
            if args.rate:
                load += ["--rate", str(args.rate)]
            alone, beside, seconds = [], [], []
            for _ in range(args.rounds):
                alone.append(puts(args, *load))
                with Saving(os.path.join(directory, "snap")) as saving:
                    beside.append(puts(args, *load))
                seconds += saving.seconds
            size = os.path.getsize(os.path.join(directory, "snap")) / 1e9
            report(name, size, seconds, alone, beside)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()
            shutil.rmtree(directory, ignore_errors=True)


def report(name, size, seconds, alone, beside):
    median = lambda runs, key: statistics.median(r[key] for r in runs)
    rates = median(alone, "rate"), median(beside, "rate")
    p99s = median(alone, "p99_us"), median(beside, "p99_us")
    print(f"{name}: {size:.1f} GB in {statistics.median(seconds):.1f} s; puts {rates[0]:.0f}/s alone, "
          f"{rates[1]:.0f}/s beside it ({rates[1] / rates[0]:.0%}); p99 {p99s[0] / 1000:.1f} ms, "
          f"{p99s[1] / 1000:.1f} ms ({p99s[1] / p99s[0]:.1f}x)", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--server", action="append", required=True, metavar="NAME=PROGRAM")
    p.add_argument("--gigabytes", type=float, default=1)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=int, default=10)
    p.add_argument("--rate", type=int, default=0, help="puts per second; 0: as many as possible")
    p.add_argument("--dir", help="where data directories are made")
    p.add_argument("--bench", default=os.path.join(HERE, "../build/bench/conclave-bench"))
    args = p.parse_args()
    for server in args.server:
        name, program = server.split("=", 1)
        measure(args, name, program)


if __name__ == "__main__":
    main()
