#!/usr/bin/python3
"""Runs client libraries of other languages against Conclave and against Debian's etcd.

run.py NODE_MODULES

CONCLAVE_PREFIX is where Conclave is installed; NODE_MODULES where npm put what package-lock.json
names. Both servers must give each client the same; the last line is "N passed, N failed".
"""

import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "cluster"))

from harness import Cluster, Target  # noqa: E402

TIMEOUT_S = 120


def observe(target, size, script, modules):
    """What the script says with a new cluster of that size."""
    with Cluster(target, size).start() as cluster:
        p = subprocess.run(["node", os.path.join(HERE, script), cluster.members[0].client_url],
                           capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
                           env=dict(os.environ, NODE_PATH=modules))
        cluster.stop()
    return p.returncode, p.stdout.splitlines(), p.stderr.strip()


def compare(script, size, modules):
    ours = observe(Target.from_environment(), size, script, modules)
    theirs = observe(Target("etcd"), size, script, modules)
    if ours[0] == 0 and ours[:2] == theirs[:2]:
        print(f"ok   {script} with {size}: {len(ours[1])} observations alike")
        return True
    print(f"FAIL {script} with {size}: status {ours[0]}, etcd's {theirs[0]}\n{ours[2]}")
    for i in range(max(len(ours[1]), len(theirs[1]))):
        a, b = (lines[i] if i < len(lines) else "(nothing)" for lines in (ours[1], theirs[1]))
        if a != b:
            print(f"     conclave {a[:300]}\n     etcd     {b[:300]}")
    return False


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    results = [compare("etcd3.js", size, sys.argv[1]) for size in (1, 3)]
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
