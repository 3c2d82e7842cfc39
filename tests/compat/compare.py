#!/usr/bin/python3
"""Runs a script of etcdctl commands against Conclave and against Debian's etcd and compares.

    CONCLAVE_PREFIX=/tmp/c tests/compat/compare.py [-v] [script ...]    (default: all in scripts/)

A script has one etcdctl command per line, as in a shell; lines after it that begin with "| " are its
standard input; "#" begins a comment. A command that begins with "@" is run as it is, any other four times over:
plain, -w json, -w fields, -w simple; a command that changes something is therefore written with "@",
which takes "@json " and "@fields " too. "%E" stands for the endpoint, "%M" for the member id in hex.

Status, standard output and standard error must be the same once what is known to differ is replaced: ids,
URLs, raft term and index, sizes, versions, times.
"""

import argparse
import glob
import os
import re
import shlex
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "cluster"))

import harness  # noqa: E402

NUMBERS = [
    (re.compile(r'"(raft_term|raftTerm|raftIndex|raftAppliedIndex|dbSize|dbSizeInUse)":\d+,?'), r""),
    (re.compile(r'"(version)":"[^"]*"'), r'"\1":V'),
    (re.compile(r'^"(RaftTerm|RaftIndex|RaftAppliedIndex|DBSize|RaftApplied)" : \d+$', re.M),
     r'"\1" : N'),
    (re.compile(r'^"(Version)" : "[^"]*"$', re.M), r'"\1" : V'),
    (re.compile(r'took = [0-9.]+.?s'), "took = T"),
    (re.compile(r'"took":"[0-9.]+.?s"'), '"took":"T"'),
    (re.compile(r'^\{"level":"[^"]*","ts":"[^"]*","caller":"[^"]*"', re.M), '{LOG'),
    (re.compile(r'passthrough:///[^"]*'), "TARGET"),
    (re.compile(r'endpoint://client-[0-9a-f-]+/'), "endpoint://ID/"),
    (re.compile(r'^"Took" : .*$', re.M), '"Took" : T'),
    (re.compile(r'^(CLIENT-URL, MEMBER), [^,]+, [0-9.]+ [kM]?B, (true|false), (true|false), '
                r'\d+, \d+, \d+,', re.M), r"\1, V, SIZE, \2, \3, N, N, N,"),
    (re.compile(r'^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ ', re.M), ""),
    (re.compile(r'\ngoroutine 1 .*', re.S), ""),  # etcdctl's own crashes
    (re.compile(r'-{2,}'), "-"),  # the width of a table depends on ids
    (re.compile(r' {2,}'), " "),
    (re.compile(r' +$', re.M), ""),
]


class Side:
    def __init__(self, target, members=1):
        self.cluster = harness.Cluster(target, members)
        self.member = self.cluster.members[0]

    def __enter__(self):
        self.cluster.__enter__()
        self.cluster.start()
        header = self.member.status().header
        self.ids = [(header.member_id, "MEMBER"), (header.cluster_id, "CLUSTER")]
        return self

    def __exit__(self, *args):
        return self.cluster.__exit__(*args)

    def run(self, args, stdin):
        args = [a.replace("%E", self.member.client_url).replace("%M", f"{self.ids[0][0]:x}")
                for a in args]
        env = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        env.update(ETCDCTL_API="3")
        if not any(a.startswith("--endpoints") for a in args):
            env["ETCDCTL_ENDPOINTS"] = self.member.client_url
        try:
            p = subprocess.run(["etcdctl"] + args, input=stdin, capture_output=True, text=True,
                               errors="replace", env=env, timeout=20, check=False)
            return p.returncode, self.normalise(p.stdout), self.normalise(p.stderr)
        except subprocess.TimeoutExpired:
            return -1, "", "did not end within 20 s"

    def normalise(self, text):
        m = self.member
        for number, name in self.ids:
            text = re.sub(rf"\b{number}\b", name, text)
            text = re.sub(rf"\b{number:x}\b", name, text)
        text = text.replace(m.client_url, "CLIENT-URL").replace(m.peer_url, "PEER-URL")
        text = text.replace(m.address, "ADDRESS")
        for pattern, replacement in NUMBERS:
            text = pattern.sub(replacement, text)
        return text


def read_script(path):
    commands = []
    with open(path, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            line = line.rstrip("\n")
            if line.startswith("| ") or line == "|":
                commands[-1][2].append(line[2:])
            elif line and not line.startswith("#"):
                commands.append((number, line, []))
    return commands


def variants(line):
    """The argument lists of one script line."""
    if line.startswith("@"):
        form, _, rest = line[1:].partition(" ")
        args = shlex.split(rest)
        return [args + (["-w", form] if form else [])]
    args = shlex.split(line)
    return [args] + [args + ["-w", form] for form in ("json", "fields", "simple")]


def compare(script, sides, verbose):
    """The number of commands run and of those that differ."""
    run = differ = 0
    for number, line, stdin in read_script(script):
        for args in variants(line):
            text = "".join(s + "\n" for s in stdin)
            ours, theirs = [side.run(args, text) for side in sides]
            run += 1
            if verbose:
                print(f"{os.path.basename(script)}:{number}: {shlex.join(args)} -> {theirs[0]}\n"
                      f"{theirs[1]}{theirs[2]}", end="")
            if ours == theirs:
                continue
            differ += 1
            print(f"{os.path.basename(script)}:{number}: etcdctl {shlex.join(args)}")
            for what, a, b in zip(("status", "stdout", "stderr"), ours, theirs):
                if a != b:
                    print(f"  {what} of Conclave: {a!r}\n  {what} of etcd:     {b!r}")
    return run, differ


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-v", action="store_true", dest="verbose", help="print etcd's answers")
    parser.add_argument("scripts", nargs="*")
    args = parser.parse_args()
    scripts = args.scripts or sorted(glob.glob(os.path.join(HERE, "scripts", "*.txt")))
    total = differ = 0
    for script in scripts:
        with Side(harness.Target.from_environment()) as ours, \
                Side(harness.Target("etcd")) as theirs:
            a, b = compare(script, (ours, theirs), args.verbose)
            total, differ = total + a, differ + b
            if b == 0:
                for side in (ours, theirs):
                    side.cluster.stop()
    print(f"{total - differ} commands alike, {differ} differ", flush=True)
    os._exit(1 if differ else 0)  # not waiting for gRPC's threads


if __name__ == "__main__":
    main()
