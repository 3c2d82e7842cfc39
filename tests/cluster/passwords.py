"""What is left of a password in the memory of the daemons that it went through: nothing."""

import json
import os
import ssl
import urllib.error
import urllib.request

import grpc

from calls import Caller, auth
from harness import Cluster, Failure, until
from protobuf_wire import msg
from tests import test
from tls import Certs

DAEMONS = ("gatewayd", "stored", "raftd", "supervisor")


def memory_of(pid):
    """Its mapped pieces that can be written to."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in maps:
            span, rights = line.split()[:2]
            if not rights.startswith("rw"):
                continue
            at, end = (int(x, 16) for x in span.split("-"))
            while at < end:
                try:
                    mem.seek(at)
                    data = mem.read(min(end - at, 1 << 20))
                except OSError:
                    break  # the kernel's own, or gone meanwhile
                if not data:
                    break
                yield data
                at += len(data)


def found(member, texts):
    """(daemon, text, what is around it) for each that is in a daemon's memory; a piece's edges do not
    matter here."""
    hits = []
    for role in DAEMONS:
        pid = member.pid(role)
        if pid == 0:
            raise Failure(f"no {role}")
        for data in memory_of(pid):
            hits += [(role, what, data[max(0, data.find(text.encode()) - 80):][:200])
                     for what, text in texts.items() if text.encode() in data]
    return sorted(set(hits))


class Json:
    """The JSON gateway."""

    def __init__(self, member, certs):
        self.url = member.client_url
        self.context = ssl.create_default_context(cafile=certs.path("bundle.pem")) if certs else None

    def call(self, path, request):
        data = json.dumps(request).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data),
                                        timeout=10, context=self.context) as r:
                return r.status
        except urllib.error.HTTPError as e:
            return e.code

    def must(self, path, request):
        status = self.call(path, request)
        if status != 200:
            raise Failure(f"{path}: {status}")


def secret():
    return "pw" + os.urandom(12).hex()


def leave_none(cluster, certs=None):
    member = cluster.members[0]
    credentials = grpc.ssl_channel_credentials(certs.read("bundle.pem")) if certs else None
    caller, web = Caller(member, credentials=credentials), Json(member, certs)
    passwords = {what: secret() for what in (
        "root's", "that a user was added with", "added by JSON", "changed to", "changed to by JSON",
        "that was wrong", "wrong by JSON", "in what is no JSON")}
    name = "user" + os.urandom(12).hex()  # which is to be found: else the search is at fault

    caller.must(auth("UserAdd"), msg((1, "root"), (2, passwords["root's"])))
    caller.must(auth("UserGrantRole"), msg((1, "root"), (2, "root")))
    caller.must(auth("UserAdd"), msg((1, name), (2, passwords["that a user was added with"])))
    web.must("/v3/auth/user/add", {"name": "other", "password": passwords["added by JSON"]})
    caller.must(auth("UserChangePassword"), msg((1, name), (2, passwords["changed to"])))
    web.must("/v3/auth/user/changepw", {"name": "other", "password": passwords["changed to by JSON"]})
    caller.must(auth("AuthEnable"), b"")
    for _ in range(3):
        caller.must(auth("Authenticate"), msg((1, "root"), (2, passwords["root's"])))
        caller.must(auth("Authenticate"), msg((1, name), (2, passwords["changed to"])))
        web.must("/v3/auth/authenticate",
                 {"name": "other", "password": passwords["changed to by JSON"]})
    if caller.call(auth("Authenticate"), msg((1, "root"), (2, passwords["that was wrong"])))[0][1] == "":
        raise Failure("a wrong password was taken")
    if web.call("/v3/auth/authenticate",
                {"name": "root", "password": passwords["wrong by JSON"]}) == 200:
        raise Failure("a wrong password was taken")
    web.call("/v3/auth/authenticate", [passwords["in what is no JSON"]])

    if "stored" not in [hit[0] for hit in found(member, {"name": name})]:
        raise Failure("the search does not find what is there")
    until(lambda: f"nothing is left of passwords: {found(member, passwords)}",
          lambda: not found(member, passwords))
    caller.channel.close()
    return len(passwords)


@test("passwords-in-memory", 8)
def passwords_in_memory(target):
    """Over plain connections and over TLS, by gRPC and JSON, right ones and wrong ones."""
    if target.is_etcd:
        return "not of etcd"
    with Cluster(target, 1).start() as cluster:
        count = leave_none(cluster)
        cluster.stop()
    with Certs() as certs:
        flags = ["--cert-file", certs.path("server.pem"), "--key-file", certs.path("server.key"),
                 "--peer-cert-file", certs.path("server.pem"), "--peer-key-file",
                 certs.path("server.key"), "--peer-trusted-ca-file", certs.path("bundle.pem")]
        with Cluster(target, 1, flags, tls=certs).start() as cluster:
            count += leave_none(cluster, certs)
            cluster.stop()
    return f"{count} passwords, none left"
