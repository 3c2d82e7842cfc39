#!/usr/bin/python3
"""The JSON gateway of Conclave beside Debian's etcd: the same requests, one after the other, to both.

compare_json.py [-v]

CONCLAVE_PREFIX is where Conclave is installed. Status, body and content type must be alike, ids and
what etcd itself changed since 3.4 aside: errors lost their "error" field, and three statuses.
The last line says how many requests were alike; the status is 1 if any was not.
"""

import base64
import http.client
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cluster"))

from harness import Cluster, Target  # noqa: E402


def b64(text):
    return base64.b64encode(text.encode()).decode()


K, K2, V = b64("key"), b64("key2"), b64("value")

# path, body (a dict, or text as it is)
UNARY = [
    ("/v3/kv/put", {"key": K, "value": V}),
    ("/v3/kv/put", {"key": K, "value": V, "prev_kv": True}),
    ("/v3/kv/put", {"key": K2, "prevKv": True}),
    ("/v3/kv/put", {"value": V}),
    ("/v3/kv/put", {"key": K, "lease": 999}),
    ("/v3/kv/put", {"key": K, "lease": "999"}),
    ("/v3/kv/put", {"key": K, "value": V, "ignore_value": True}),
    ("/v3/kv/put", {"key": "no base64!"}),
    ("/v3/kv/put", {"key": 12}),
    ("/v3/kv/put", "{\"key\""),
    ("/v3/kv/put", "nonsense"),
    ("/v3/kv/range", {"key": K}),
    ("/v3/kv/range", {"key": K, "range_end": b64("kez")}),
    ("/v3/kv/range", {"key": K, "rangeEnd": b64("kez"), "limit": 1}),
    ("/v3/kv/range", {"key": K, "range_end": b64("kez"), "limit": "1", "sort_order": "DESCEND"}),
    ("/v3/kv/range", {"key": "AA==", "range_end": "AA==", "count_only": True}),
    ("/v3/kv/range", {"key": "AA==", "range_end": "AA==", "keys_only": True, "serializable": True}),
    ("/v3/kv/range", {"key": K, "sort_order": "SIDEWAYS"}),
    ("/v3/kv/range", {"key": K, "revision": 2}),
    ("/v3/kv/range", {"key": K, "revision": 9999}),
    ("/v3/kv/range", {"key": b64("absent")}),
    ("/v3/kv/range", {}),
    ("/v3/kv/txn", {"compare": [{"result": "EQUAL", "target": "VERSION", "key": K, "version": "2"}],
                    "success": [{"request_range": {"key": K}},
                                {"request_put": {"key": K, "value": V}}],
                    "failure": [{"request_delete_range": {"key": K}}]}),
    ("/v3/kv/txn", {"compare": [{"target": "VALUE", "key": K, "value": b64("other")}],
                    "failure": [{"request_delete_range": {"key": K2, "prev_kv": True}}]}),
    ("/v3/kv/txn", {"success": [{"request_put": {"key": K}}, {"request_put": {"key": K}}]}),
    ("/v3/kv/txn", {"success": [{"request_put": []}]}),
    ("/v3/kv/deleterange", {"key": K, "prev_kv": True}),
    ("/v3/kv/deleterange", {"key": K}),
    ("/v3/kv/compaction", {"revision": 3}),
    ("/v3/kv/compaction", {"revision": 3}),
    ("/v3/kv/compaction", {"revision": "99999"}),
    ("/v3/kv/range", {"key": K, "revision": 1}),
    ("/v3beta/kv/range", {"key": K}),
    ("/v3alpha/kv/range", {"key": K}),
    ("/v3/kv/nonsense", {}),
    ("/v3/", {}),
    ("/v3/cluster/member/list", {}),
    ("/v3/maintenance/alarm", {"action": "GET"}),
    ("/v3/lease/grant", {"TTL": 600, "ID": 77}),
    ("/v3/lease/grant", {"TTL": "600", "ID": "77"}),
    ("/v3/lease/grant", {"TTL": "9999999999999"}),
    ("/v3/kv/put", {"key": K, "value": V, "lease": "77"}),
    ("/v3/lease/leases", {}),
    ("/v3/kv/lease/leases", {}),
    ("/v3/lease/timetolive", {"ID": "77", "keys": True}),
    ("/v3/kv/lease/timetolive", {"ID": 78}),
    ("/v3/lease/keepalive", {"ID": "77"}),
    ("/v3/lease/keepalive", {"ID": 78}),
    ("/v3/lease/keepalive", "{\"ID\":77}{\"ID\":78}\n{\"ID\":77}"),
    ("/v3/lock/lock", {"name": b64("lk"), "lease": 77}),
    ("/v3/lock/lock", {"name": b64("lk"), "lease": 99}),
    ("/v3/kv/range", {"key": b64("lk/4d")}),
    ("/v3/lock/unlock", {"key": b64("lk/4d")}),
    ("/v3/election/leader", {"name": b64("el")}),
    ("/v3/election/campaign", {"name": b64("el"), "lease": 77, "value": V}),
    ("/v3/election/leader", {"name": b64("el")}),
    ("/v3/election/proclaim", {"leader": {"name": b64("el"), "key": b64("el/4d"), "rev": "1",
                                          "lease": "77"}, "value": K}),
    ("/v3/lease/revoke", {"ID": "77"}),
    ("/v3/kv/lease/revoke", {"ID": "77"}),
    ("/v3/kv/range", {"key": K}),
    ("/v3/cluster/member/add", {"peerURLs": ["nonsense"]}),
    ("/v3/cluster/member/remove", {"ID": "1234"}),
    ("/v3/cluster/member/promote", {"ID": "1234"}),
    ("/v3/maintenance/defragment", {}),
    ("/v3/maintenance/transfer-leadership", {"targetID": "1234"}),
    ("/v3/auth/role/add", {"name": "reader"}),
    ("/v3/auth/role/grant", {"name": "reader", "perm": {"permType": "READ", "key": K}}),
    ("/v3/auth/role/get", {"role": "reader"}),
    ("/v3/auth/role/get", {"role": "nobody"}),
    ("/v3/auth/user/add", {"name": "ann", "password": "secret"}),
    ("/v3/auth/user/add", {"name": "ann", "password": "secret"}),
    ("/v3/auth/user/add", {"name": ""}),
    ("/v3/auth/user/grant", {"user": "ann", "role": "reader"}),
    ("/v3/auth/user/get", {"name": "ann"}),
    ("/v3/auth/user/list", {}),
    ("/v3/auth/role/list", {}),
    ("/v3/auth/enable", {}),
    ("/v3/auth/user/add", {"name": "root", "password": "pw"}),
    ("/v3/auth/user/grant", {"user": "root", "role": "root"}),
    ("/v3/auth/enable", {}),
    ("/v3/kv/range", {"key": K}),
    ("/v3/auth/authenticate", {"name": "root", "password": "wrong"}),
    ("/v3/auth/authenticate", {"name": "root", "password": "pw"}),
    ("LOGIN", {"name": "ann", "password": "secret"}),
    ("/v3/kv/range", {"key": K}),
    ("/v3/kv/put", {"key": K}),
    ("/v3/auth/user/list", {}),
    ("LOGIN", {"name": "root", "password": "pw"}),
    ("/v3/auth/disable", {}),
    ("LOGOUT", {}),  # 3.4 goes on refusing the token
    ("/v3/kv/put", {"key": K}),
]

# path, body, lines to read: streams that do not end by themselves
STREAMS = [
    ("/v3/watch", {"create_request": {"key": K, "start_revision": "4"}}, 2),
    ("/v3/watch", {"create_request": {"key": K, "start_revision": "1"}}, 2),
    ("/v3/watch", {"create_request": {"key": "AA==", "range_end": "AA==", "start_revision": 4,
                                      "prev_kv": True, "filters": ["NOPUT"], "watch_id": "7"}}, 2),
    ("/v3/watch", "{\"create_request\":{\"key\":\"%s\",\"watch_id\":5}}"
                  "{\"cancel_request\":{\"watch_id\":5}}" % K, 2),
    ("/v3/watch", {"create_request": {"key": K, "range_end": b64("a"), "watch_id": "3"}}, 1),
]


def mask(value, key=""):
    """Replaces what differs between any two members."""
    if isinstance(value, dict):
        return {k: mask(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [mask(v, key) for v in value]
    if key in ("cluster_id", "member_id", "raft_term", "peerURLs", "clientURLs", "token") or \
            (key in ("ID", "name") and len(str(value)) > 10) or \
            (key == "name" and value in ("n1", "default")):
        return "*"
    if key == "TTL" and 0 < int(value) <= 600:
        return "599"
    return value


def modern(status, body):
    """An answer of 3.4 as a newer gateway gives it."""
    if isinstance(body, dict) and "error" in body and "code" in body:
        body = {"code": body["code"], "message": body["message"]}
        status = {412: 400, 408: 499}.get(status, status)
        if body["code"] == 3 and not body["message"].startswith("etcdserver"):
            body["message"] = "what the decoder says"
    elif status == 404:
        body = {"code": 5, "message": "Not Found"}
    return status, body


def parse(text):
    """A JSON value; of several, the list of them; else the text."""
    values, decoder, at = [], json.JSONDecoder(), 0
    try:
        while at < len(text):
            value, at = decoder.raw_decode(text, at)
            values.append(value)
            while at < len(text) and text[at].isspace():
                at += 1
    except ValueError:
        return text
    return values[0] if len(values) == 1 else values


def ask(port, path, body, token, lines=0):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        headers = {"Authorization": token} if token else {}
        connection.request("POST", path, body if isinstance(body, str) else json.dumps(body),
                           headers)
        r = connection.getresponse()
        text = b""
        try:
            for _ in range(lines):
                text += r.readline()
        except TimeoutError:
            text += b"nothing more"
        if not lines:
            text = r.read()
        return r.status, parse(text.decode()), r.headers.get("Content-Type", "").split(";")[0]
    finally:
        connection.close()


class Caller:
    """One member, and the token that requests to it carry."""

    def __init__(self, member, is_etcd):
        self.port, self.is_etcd, self.token = member.client_port, is_etcd, None

    def ask(self, path, body, lines=0):
        if path == "LOGIN":
            self.token = None
            answer = ask(self.port, "/v3/auth/authenticate", body, None)
            self.token = answer[1].get("token")
        elif path == "LOGOUT":
            self.token, answer = None, (0, {}, "")
        else:
            answer = ask(self.port, path, body, self.token, lines)
        return normal(answer, self.is_etcd, path)


def normal(answer, is_etcd, path):
    status, body, kind = answer
    if is_etcd:
        status, body = modern(status, body)
        if status == 404:
            kind = "application/json" if path.startswith("/v3/") else kind
    elif isinstance(body, dict) and body.get("code") == 3 and \
            not body["message"].startswith("etcdserver"):
        body = dict(body, message="what the decoder says")
    if path == "/v3/maintenance/alarm" and isinstance(body, dict):
        body.pop("header", None)  # 3.4 has none
    if status == 404 and not path.startswith("/v3/"):
        body = "not found"
    return status, mask(body), kind


def main():
    verbose = "-v" in sys.argv[1:]
    alike, rows = 0, [(path, body, 0) for path, body in UNARY] + STREAMS
    with Cluster(Target.from_environment(), 1).start() as ours, \
            Cluster(Target("etcd"), 1).start() as theirs:
        pair = Caller(ours.members[0], False), Caller(theirs.members[0], True)
        for path, body, lines in rows:
            a, b = (m.ask(path, body, lines) for m in pair)
            alike += a == b
            if a != b or verbose:
                print(f"{'same' if a == b else 'DIFFERENT'} {path} {json.dumps(body)}\n"
                      f"  conclave {a}\n  etcd     {b}")
    print(f"{alike} of {len(rows)} requests alike")
    return alike != len(rows)


if __name__ == "__main__":
    sys.exit(main())
