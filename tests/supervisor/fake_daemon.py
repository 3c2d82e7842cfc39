#!/usr/bin/env python3
"""Stands in for raftd, stored or gatewayd: speaks the control channel and nothing else.

The name it is started under says which daemon it plays. $FAKE_DIR/<name>.mode holds words that
change what it does; $FAKE_DIR/events gets one line per thing that happened."""
import array
import os
import signal
import socket
import sys
import time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
where = os.environ["FAKE_DIR"]
kind = os.path.basename(sys.argv[0])
options = dict(a[2:].split("=", 1) for a in sys.argv[1:] if not a.startswith("--listen-fd"))
listens = [a.split("=", 1)[1] for a in sys.argv[1:] if a.startswith("--listen-fd")]


def read_conf(fd):
    os.lseek(fd, 0, os.SEEK_SET)
    with os.fdopen(fd) as f:
        return dict(line.split("=", 1) for line in f.read().splitlines())


conf = read_conf(int(options["conf-fd"]))
name = kind + (conf["gateway-index"] if kind == "gatewayd" else "")
control = socket.socket(fileno=int(options["control-fd"]))


def event(text):
    fd = os.open(where + "/events", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{name} {text}\n".encode())
    os.close(fd)


def say(data):
    try:
        control.send(data)
    except BrokenPipeError:
        pass  # the supervisor is dead, which reading will tell


def modes():
    try:
        with open(f"{where}/{name}.mode") as f:
            return f.read().split()
    except FileNotFoundError:
        return []


mode = modes()
with open(f"{where}/{name}.conf", "w") as f:
    f.write("".join(f"{k}={v}\n" for k, v in conf.items()))
event(f"start {os.getpid()} {conf['generation']}")
for k in ("NOTIFY_SOCKET", "WATCHDOG_USEC"):
    if k in os.environ:
        event(f"has {k}")
if listens:
    event("listens " + " ".join(x.split(":", 1)[1] for x in listens))
if "die" in mode:
    sys.exit(3)
if "fatal" in mode:
    say(b"FATAL the cluster id is another one")
    sys.exit(1)
if "removed" in mode:
    say(b"READY")
    say(b"FATAL the member has been permanently removed from the cluster")
    sys.exit(0)
if "slow" in mode:
    while "slow" in modes():
        time.sleep(0.01)
if "nonsense" in mode:
    for text in (b"", b"READY now", b"PONG", b"PONG x", b"PONG 99999999999999999999", b"\xff\x00\n",
                 b"x" * 5000, b"STATUS " + b"%s%n" * 2000, b"READY", b"READY", b"HANDED-OVER"):
        if text:
            say(text)
    for i in range(20000):
        say(b"nonsense %d" % i)
    event("said nonsense")
else:
    say(b"READY")
if "close" in mode:
    control.close()
    while True:
        time.sleep(1)
say(f"STATUS {name} is fine".encode())

while True:
    fds = array.array("i")
    try:
        data, ancillary, flags, _ = control.recvmsg(4096, socket.CMSG_SPACE(4))
    except ConnectionResetError:  # the supervisor died without having read everything
        data, ancillary = b"", []
    for level, what, cdata in ancillary:
        if level == socket.SOL_SOCKET and what == socket.SCM_RIGHTS:
            fds.frombytes(cdata[:4])
    if not data:
        event("end-of-file")
        while "cling" in modes():
            time.sleep(0.01)
        sys.exit(0)
    text = data.decode()
    if text.startswith("PING "):
        if "mute" not in mode:
            say(b"PONG " + text[5:].encode())
        continue
    event(text)
    if text == "RELOAD":
        new = read_conf(fds[0])
        event(f"level {new['log-level']} generation {new['generation'] == conf['generation']}")
    if text == "HANDOVER" and "keep" not in mode:
        say(b"HANDED-OVER")
    if text == "STOP" and "stubborn" not in mode:
        sys.exit(0)
