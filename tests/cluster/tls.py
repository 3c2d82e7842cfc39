"""TLS towards clients and between members, with certificates made on the spot by openssl(1)."""

import os
import shutil
import socket
import ssl
import subprocess
import tempfile

import grpc

from harness import DAEMONS, Cluster, Failure, until
from load import Load
from tests import test

EXTENSIONS = "subjectAltName=IP:127.0.0.1,DNS:localhost"


class Certs:
    """Authorities and what they sign, as <name>.pem and <name>.key in a directory."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="ct-tls-", dir=os.environ.get("CLUSTER_TEST_DIR"))
        self.ca = "ca"
        self.client = "client"
        self.flags = []
        for side, ca in (("", "trusted-ca-file"), ("peer-", "peer-trusted-ca-file")):
            self.flags += [f"--{side}cert-file", self.path("server.pem"),
                           f"--{side}key-file", self.path("server.key"),
                           f"--{ca}", self.path("bundle.pem"),
                           "--peer-client-cert-auth" if side else "--client-cert-auth"]
        self.authority("ca")
        self.sign("server", "ca", "member")
        self.sign("client", "ca", "somebody")
        self.bundle("ca")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.dir, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.dir, name)

    def read(self, name):
        with open(self.path(name), "rb") as f:
            return f.read()

    def openssl(self, *args, text=None):
        r = subprocess.run(["openssl"] + list(args), cwd=self.dir, input=text, text=True,
                           capture_output=True, timeout=30, check=False)
        if r.returncode != 0:
            raise Failure(f"openssl {' '.join(args)}: {r.stderr}")

    def authority(self, name):
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                     "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj",
                     f"/CN={name}")

    def sign(self, name, ca, common_name):
        """Key and certificate appear one after the other under their names, as tools do it."""
        self.openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                     "-keyout", "new.key", "-out", "new.csr", "-subj", f"/CN={common_name}")
        with open(self.path("new.ext"), "w", encoding="ascii") as f:
            f.write(EXTENSIONS)
        self.openssl("x509", "-req", "-in", "new.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key",
                     "-CAcreateserial", "-days", "2", "-out", "new.pem", "-extfile", "new.ext")
        os.rename(self.path("new.key"), self.path(f"{name}.key"))
        os.rename(self.path("new.pem"), self.path(f"{name}.pem"))

    def bundle(self, *names):
        with open(self.path("bundle.new"), "wb") as f:
            for name in names:
                f.write(self.read(f"{name}.pem"))
        os.rename(self.path("bundle.new"), self.path("bundle.pem"))

    def credentials(self):
        """Of a new client, for gRPC: what the files hold now."""
        return grpc.ssl_channel_credentials(self.read("bundle.pem"),
                                            self.read(f"{self.client}.key"),
                                            self.read(f"{self.client}.pem"))


def run(command):
    env = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
    env["ETCDCTL_API"] = "3"
    return subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=30, check=False)


def etcdctl(certs, member, *args, client=None):
    client = client or certs.client
    return run(["etcdctl", "--endpoints", member.client_url, "--command-timeout", "3s", "--cacert",
                certs.path("bundle.pem"), "--cert", certs.path(f"{client}.pem"), "--key",
                certs.path(f"{client}.key")] + list(args))


def curl(certs, url, *args):
    return run(["curl", "-s", "--cacert", certs.path("bundle.pem"), "-w", " HTTP/%{http_version}"]
               + list(args) + [url])


def expect(what, good, r):
    if not good:
        raise Failure(f"{what}: status {r.returncode}: {r.stdout}{r.stderr}")


def check_strangers(certs, member):
    with_cert = ["--cert", certs.path("client.pem"), "--key", certs.path("client.key")]
    for version in ("1.1", "2"):
        r = curl(certs, member.client_url + "/version", f"--http{version}", *with_cert)
        expect(f"curl with HTTP/{version}",
               r.returncode == 0 and r.stdout.endswith(f"HTTP/{version}"), r)
    r = curl(certs, member.client_url + "/health")
    expect("curl without a certificate", r.returncode != 0 and "true" not in r.stdout, r)
    r = curl(certs, member.client_url.replace("https:", "http:") + "/health")
    expect("curl without TLS", "true" not in r.stdout, r)
    r = etcdctl(certs, member, "get", "x", client="stranger")
    expect("etcdctl of another authority", r.returncode != 0, r)
    for port in (member.client_port, member.peer_port):
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname = False
        old.verify_mode = ssl.CERT_NONE
        old.set_ciphers("DEFAULT:@SECLEVEL=0")
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as s, old.wrap_socket(s):
                raise Failure(f"TLS 1.1 was accepted at port {port}")
        except OSError:
            pass


def loaded(member, what, count):
    return until(f"{member.name} has loaded its {what} files {count} times",
                 lambda: member.log().count(f"{what} TLS files changed and were loaded") >= count)


@test("tls-of-3", 14)
def tls(target):
    """Mutual TLS everywhere; then everything is replaced, the authority included, under load."""
    with Certs() as certs, Cluster(target, 3, certs.flags, tls=certs).start() as cluster:
        first, second, third = cluster.members
        certs.authority("other")
        certs.sign("stranger", "other", "stranger")
        expect("etcdctl put", etcdctl(certs, first, "put", "a", "b").returncode == 0,
               etcdctl(certs, first, "get", "a"))
        r = etcdctl(certs, second, "get", "a", "--print-value-only")
        expect("etcdctl get", r.stdout.strip() == "b", r)
        check_strangers(certs, third)
        with Load(cluster.members) as load:
            load.wait_more(60)
            if not target.is_etcd:  # which reads authorities at its start only
                certs.authority("new-ca")
                certs.bundle("ca", "new-ca")
                for m in cluster.members:  # each sees it when the next connection begins
                    m.wait_healthy()
                    loaded(m, "client", 1)
                certs.sign("server", "new-ca", "member")
                certs.sign("new-client", "new-ca", "somebody new")
                certs.client = "new-client"
                cluster.pick("follower").kill("raftd")  # new connections between members
                load.wait_more(40)
                certs.bundle("new-ca")
                cluster.wait_healthy()
                cluster.wait_leader()
                cluster.pick("leader").kill("raftd")
                load.wait_more(40)
                r = etcdctl(certs, first, "get", "a", client="client")
                expect("a client of the old authority", r.returncode != 0, r)
            else:
                certs.sign("server", "ca", "member")
                cluster.wait_healthy()
            r = etcdctl(certs, first, "get", "a", "--print-value-only")
            expect("etcdctl after all was replaced", r.stdout.strip() == "b", r)
            load.wait_more(40)
            summary = load.finish()
        cluster.check_equal()
        cluster.stop()
        return summary


@test("tls-kills-of-3", 16)
def tls_kills(target):
    """Every process of the leader, and a stopped raftd: relays of dead members hold nobody up."""
    with Certs() as certs, Cluster(target, 3, certs.flags, tls=certs).start() as cluster:
        with Load(cluster.members) as load:
            load.wait_more(40)
            for role in DAEMONS + ("supervisor",):
                victim = cluster.pick("leader")
                victim.kill(role)
                load.wait_more(20, [m for m in cluster.members if m is not victim])
                victim.wait_healthy()
                load.wait_more(20)
            victim = cluster.pick("leader")
            paused = victim.pause(["raftd"])
            others = [m for m in cluster.members if m is not victim]
            cluster.wait_leader(others)
            load.wait_more(20, others)
            victim.resume(paused)
            load.wait_more(20)
            summary = load.finish(allow_timeouts=True)
        cluster.check_equal()
        cluster.stop()
        return summary


@test("auto-tls-of-3", 6)
def auto_tls(target):
    """Certificates that sign themselves: encryption, and whoever wants may connect."""
    with Cluster(target, 3, ["--auto-tls", "--peer-auto-tls"], tls=True) as cluster:
        for m in cluster.members:
            m.start()
        for m in cluster.members:
            def works(m=m):
                return run(["etcdctl", "--endpoints", m.client_url, "--insecure-skip-tls-verify",
                            "--insecure-transport=false", "put", "a", m.name]).returncode == 0
            until(f"{m.name} takes a put", works)
            for side in ("client", "peer"):
                key = os.path.join(m.data_dir, "fixtures", side, "key.pem")
                if os.stat(key).st_mode & 0o777 != 0o600:
                    raise Failure(f"{key} is not private")
        cluster.stop()
        return "three puts"
