#!/usr/bin/python3
"""Runs scripts of commands with etcdctl and with conclavectl, each on a server of its own, and compares.

    CONCLAVE_PREFIX=/tmp/c tests/compat/compare_ctl.py [-v] [--server etcd|conclave] [script ...]

Both servers are of the same kind and see the same commands in the same order, so exit code, standard
output and standard error must be the same byte for byte, once ids, times and sizes are masked and log
lines left out. Reference is etcdctl 3.5 (bench/fetch_etcd35.sh); where that cannot be had, Debian's 3.4,
without the lines that begin with "35 ". The last line says "N passed, N failed".

A script has one command per line, as in a shell; lines after it that begin with "| " are its standard
input; "#" begins a comment. In front of a command may stand
    NAME=value    environment
    bare          without the endpoint in the environment
    lines=N       end it (SIGINT) when it has printed N lines
    35            only when the reference is 3.5
    etcd          only on etcd servers
    until         again until it succeeds, for half a minute
%E is the endpoint, %L the lease granted last, %M the member's id, %N the id of the member added last,
%F the id of a follower, %P a free port, %D a directory of the side's own.

"# members N" in the first line asks for clusters of N members, all of them being endpoints, and "join NAME
ID" starts a member that was added, with the peer URL of the port that %P was.
"""

import argparse
import concurrent.futures
import glob
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "..", "cluster"))

import harness  # noqa: E402
from compare import Side, read_script  # noqa: E402

COMMAND_S = 30
MASKS = [
    (re.compile(r"\bconclavectl\b"), "etcdctl"),
    (re.compile(r"^\d{4}-\d\d-\d\dT\S+\tinfo\t.*\n", re.M), ""),
    (re.compile(r"^restored DIRECTORY/.*\n", re.M), ""),
    (re.compile(r'^\{"level":.*\n', re.M), ""),
    (re.compile(r"^Deprecated: Use `etcdutl .*\n\n", re.M), ""),
    (re.compile(r"^In etcd v3.6, the operation will be suspended .*\n", re.M), ""),
    (re.compile(r" +[0-9a-f]{12,16}\b"), " HEX"),  # short ones are padded
    (re.compile(r"\b[0-9a-f]{12,16}\b"), "HEX"),
    (re.compile(r"\b\d{15,20}\b"), "DEC"),
    (re.compile(r',"(storageVersion|dbSizeQuota|downgradeInfo|hash_revision)":("[^"]*"|\d+|\{\})'),
     ""),  # which etcdctl 3.5 does not know
    (re.compile(r"took = [0-9.]+(.?s|m\d+s)"), "took = T"),
    (re.compile(r'"took":"[^"]*"'), '"took":"T"'),
    (re.compile(r'^"Took" : .*$', re.M), '"Took" : T'),
    (re.compile(r'"(raft_term|raftTerm|raftIndex|raftAppliedIndex|dbSize|dbSizeInUse|hash|ttl)":\d+'),
     r'"\1":N'),
    (re.compile(r'^"(RaftTerm|RaftIndex|RaftAppliedIndex|DBSize|Hash|Size|TTL)" : \d+$', re.M),
     r'"\1" : N'),
    (re.compile(r"remaining\(\d+s\)"), "remaining(N)"),
    (re.compile(r"^(CLIENT-URL, HEX, [^,]+), [0-9.]+ [kM]?B, (true|false), (true|false), \d+, \d+, \d+,",
                re.M), r"\1, SIZE, \2, \3, N, N, N,"),
    (re.compile(r"^(CLIENT-URL), \d+$", re.M), r"\1, HASH"),
    (re.compile(r"^[0-9a-f]+, (\d+), (\d+), [0-9.]+ [kM]?B$", re.M), r"HASH, \1, \2, SIZE"),
    (re.compile(r'"totalSize":\d+'), '"totalSize":N'),
    (re.compile(r"^(NAME:\n\t[^\n]*)\n.*\Z", re.M | re.S), r"\1 USAGE"),
    (re.compile(r"^\+[-+]+\+$", re.M), "RULE"),
    (re.compile(r" *\| *(HEX|DEC|\d+ [kM]?B|\d+|[0-9.]+.?s)? *(?=\|)"), "|"),
    (re.compile(r" *\| *"), "|"),
    (re.compile(r"\ngoroutine 1 .*", re.S), ""),
]


def in_one_order(text):
    """Members are told in the order of their ids, which are random: in that of their texts."""
    text = re.sub(r'(?<=ETCD_INITIAL_CLUSTER=").*?(?=")',
                  lambda m: ",".join(sorted(m.group().split(","))), text)
    text = re.sub(r'(?<="members":\[)(?:\{[^{}]*\},?)+(?=\])',
                  lambda m: ",".join(sorted(re.findall(r"\{[^{}]*\}", m.group()))), text)
    head, *members = re.split(r'(?m)^(?="ID" : DEC\n"Name" : )', text)
    return head + "".join(sorted(m.rstrip("\n") + "\n\n" for m in members))


class CtlSide(Side):
    """A server and the program that is run on it."""

    def __init__(self, target, program, members):
        super().__init__(target, members)
        self.program = program
        self.lease = self.added = "0"
        self.port = None
        self.directory = tempfile.mkdtemp(prefix="compare-ctl-")

    def __exit__(self, *args):
        shutil.rmtree(self.directory, ignore_errors=True)
        return super().__exit__(*args)

    def mask(self, text):
        text = text.replace(self.directory, "DIRECTORY")
        for m in self.cluster.members:
            for url, name in ((m.client_url, "CLIENT-URL"), (m.address, "CLIENT-URL"),
                              (m.peer_url, "PEER-URL")):
                text = text.replace(url, name)
        if self.port is not None:
            text = text.replace(str(self.port), "PORT")
        for pattern, replacement in MASKS:
            text = pattern.sub(replacement, text)
        return in_one_order(text)

    def follower(self):
        """The id of a member that does not lead, in hex."""
        def find():
            status = self.member.status()
            others = {m.status().header.member_id for m in self.cluster.members} - {status.leader}
            return status.leader != 0 and min(others)
        return f"{harness.until('there is a leader', find):x}"

    def fill_in(self, arg):
        if "%F" in arg:
            arg = arg.replace("%F", self.follower())
        if "%P" in arg:
            self.port = self.port or harness.free_port()
            arg = arg.replace("%P", str(self.port))
        return (arg.replace("%E", self.member.address).replace("%L", self.lease)
                .replace("%D", self.directory).replace("%M", f"{self.ids[0][0]:x}")
                .replace("%N", self.added))

    def join(self, name):
        """Starts what was added, with the members' URLs as `member add` printed them."""
        member = harness.Member(self.cluster, name)
        member.peer_port, member.state = self.port, "existing"
        member.peer_url = f"http://127.0.0.1:{self.port}"
        self.cluster.members.append(member)
        member.start()
        return 0, "", ""

    def do(self, command, stdin):
        if command.args[0] == "join":
            return self.join(command.args[1])
        if not command.until:
            return self.run_once(command, stdin)
        got = []

        def succeeds():
            got[:] = self.run_once(command, stdin)
            return got[0] == 0
        try:
            harness.until("it succeeds", succeeds, 30, 0.3)
        except harness.Failure:
            pass  # what it says is compared
        return tuple(got)

    def run_once(self, command, stdin):
        env = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        env["ETCDCTL_API"] = "3"
        args = [self.fill_in(a) for a in command.args]
        env.update(command.env)
        if not command.bare:
            env["ETCDCTL_ENDPOINTS"] = self.endpoints
        p = subprocess.Popen([self.program] + args, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, env=env)
        timer = threading.Timer(COMMAND_S, p.kill)
        timer.start()
        out = b""
        if command.lines:
            p.stdin.write(stdin.encode())
            p.stdin.flush()
            while out.count(b"\n") < command.lines:
                part = p.stdout.readline()
                if not part:
                    break
                out += part
            p.send_signal(signal.SIGINT)
            p.wait()  # before its standard input ends, which it could see first
            rest, err = p.communicate()
        else:
            rest, err = p.communicate(stdin.encode())
        timer.cancel()
        out = (out + rest).decode(errors="replace")
        granted = re.search(r"lease ([0-9a-f]{16}) granted", out)
        if granted:
            self.lease = granted.group(1)
        added = re.search(r"Member +([0-9a-f]+) added to cluster", out)
        if added:
            self.added = added.group(1)
        return p.returncode, self.mask(out), self.mask(err.decode(errors="replace"))


class Command:
    def __init__(self, line):
        self.env, self.bare, self.lines, self.only = {}, False, 0, set()
        self.until = False
        args = shlex.split(line)
        while args:
            if args[0] == "bare":
                self.bare = True
            elif args[0] == "until":
                self.until = True
            elif args[0] in ("35", "etcd"):
                self.only.add(args[0])
            elif args[0].startswith("lines="):
                self.lines = int(args[0][6:])
            elif re.match(r"^[A-Z_]+=", args[0]):
                name, _, value = args[0].partition("=")
                self.env[name] = value
            else:
                break
            args.pop(0)
        self.args = args


def members_of(path):
    with open(path, encoding="utf-8") as f:
        wanted = re.match(r"# members (\d+)", f.readline())
    return int(wanted.group(1)) if wanted else 1


def compare_script(script, theirs, ours, have, verbose):
    """The number of commands alike and of those that differ."""
    alike = differ = 0
    for number, line, stdin in read_script(script):
        command = Command(line)
        if not command.only <= have:
            continue
        text = "".join(s + "\n" for s in stdin)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            a, b = pool.map(lambda side: side.do(command, text), (theirs, ours))
        where = f"{os.path.basename(script)}:{number}: {shlex.join(command.args)}"
        if verbose:
            print(f"{where} -> {a[0]}\n{a[1]}{a[2]}", end="")
        if a == b and a[0] != -signal.SIGKILL:
            alike += 1
            continue
        differ += 1
        print(f"{where}")
        if a[0] == -signal.SIGKILL:
            print(f"  did not end within {COMMAND_S} s")
        for what, x, y in zip(("status", "stdout", "stderr"), a, b):
            if x != y:
                print(f"  {what} of etcdctl:     {x!r}\n  {what} of conclavectl: {y!r}")
    return alike, differ


def compare_flags(etcdctl, conclavectl):
    """Every command and flag that etcdctl's help names is there."""
    def page(program, path):
        text = subprocess.run([program] + path + ["--help"], capture_output=True, text=True, check=False,
                              env={**os.environ, "ETCDCTL_API": "3"}).stdout
        listed = text.partition("COMMANDS:\n")[2].partition("\nOPTIONS:")[0]
        commands = [line.split("\t")[1].split() for line in listed.splitlines() if line.startswith("\t")]
        return commands, set(re.findall(r"^ +(?:-\w, )?--([\w-]+)", text, re.M))

    alike = differ = 0
    commands, _ = page(etcdctl, [])
    for path in [[]] + [c for c in commands if c[0] != "migrate" and c[-1] != "powershell"]:
        missing = page(etcdctl, path)[1] - page(conclavectl, path)[1]
        if missing:
            print(f"{' '.join(path)}: no flag {', '.join(sorted(missing))}")
            differ += 1
        else:
            alike += 1
    return alike, differ


def find_reference():
    """(etcd, etcdctl, is it 3.5)"""
    fetch = os.path.join(HERE, "..", "..", "bench", "fetch_etcd35.sh")
    p = subprocess.run([fetch], capture_output=True, text=True, check=False)
    etcd = p.stdout.strip().splitlines()[-1] if p.returncode == 0 and p.stdout.strip() else ""
    etcdctl = os.path.join(os.path.dirname(etcd), "etcdctl")
    if etcd and os.access(etcdctl, os.X_OK):
        return etcd, etcdctl, True
    return "/usr/bin/etcd", shutil.which("etcdctl") or "/usr/bin/etcdctl", False


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-v", action="store_true", dest="verbose", help="print etcdctl's answers")
    parser.add_argument("--server", choices=("etcd", "conclave"), default="etcd")
    parser.add_argument("--ctl", help="conclavectl (default: the one below CONCLAVE_PREFIX)")
    parser.add_argument("scripts", nargs="*")
    args = parser.parse_args()
    prefix = os.environ.get("CONCLAVE_PREFIX", "")
    conclavectl = os.path.abspath(args.ctl or os.path.join(prefix, "bin/conclavectl"))
    etcd, etcdctl, is_35 = find_reference()
    have = ({"35"} if is_35 else set()) | ({"etcd"} if args.server == "etcd" else set())
    alike, differ = compare_flags(etcdctl, conclavectl)

    def target():
        if args.server == "conclave":
            return harness.Target("conclave", prefix)
        t = harness.Target("etcd")
        t.program = etcd
        return t

    for script in args.scripts or sorted(glob.glob(os.path.join(HERE, "ctl", "*.txt"))):
        members = members_of(script)
        with CtlSide(target(), etcdctl, members) as theirs, \
                CtlSide(target(), conclavectl, members) as ours:
            for side in (theirs, ours):
                side.endpoints = ",".join(m.address for m in side.cluster.members)
            a, d = compare_script(script, theirs, ours, have, args.verbose)
            alike, differ = alike + a, differ + d
            for side in (ours, theirs):
                side.cluster.stop()
    print(f"{alike} passed, {differ} failed", flush=True)
    os._exit(1 if differ else 0)  # not waiting for gRPC's threads


if __name__ == "__main__":
    main()
