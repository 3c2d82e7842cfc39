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
]


def mask(value, key=""):
    """Replaces what differs between any two members."""
    if isinstance(value, dict):
        return {k: mask(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [mask(v, key) for v in value]
    if key in ("cluster_id", "member_id", "ID", "raft_term", "name", "peerURLs", "clientURLs"):
        return "*"
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


def ask(port, path, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", path, body if isinstance(body, str) else json.dumps(body))
        r = connection.getresponse()
        text = r.read().decode()
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        return r.status, value, r.headers.get("Content-Type", "").split(";")[0]
    finally:
        connection.close()


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
    alike = 0
    with Cluster(Target.from_environment(), 1).start() as ours, \
            Cluster(Target("etcd"), 1).start() as theirs:
        pair = (ours.members[0], theirs.members[0])
        for path, body in UNARY:
            a, b = (normal(ask(m.client_port, path, body), m is pair[1], path) for m in pair)
            if a == b:
                alike += 1
            if a != b or verbose:
                print(f"{'same' if a == b else 'DIFFERENT'} {path} {json.dumps(body)}\n"
                      f"  conclave {a}\n  etcd     {b}")
    print(f"{alike} of {len(UNARY)} requests alike")
    return alike != len(UNARY)


if __name__ == "__main__":
    sys.exit(main())
