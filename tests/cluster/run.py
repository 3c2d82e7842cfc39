#!/usr/bin/python3
"""Runs the process tests: run.py [-j N] [-l] [name or part of it ...]

CONCLAVE_PREFIX is where Conclave is installed; CLUSTER_TARGET=etcd runs them on Debian's etcd.
One line per test; the last line is "N passed, M failed", and the status is 1 if any failed.
Each test is a process of its own, -j of them at a time (2). CLUSTER_KEEP=1 keeps all logs and data.
"""

import argparse
import os
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TEST_TIMEOUT_S = 240


def run_one(name):
    sys.path.insert(0, HERE)
    import harness
    import tests
    import auth  # noqa: F401 (registers its tests)
    import errors  # noqa: F401 (likewise)
    import health  # noqa: F401 (likewise)
    import json_websocket  # noqa: F401 (likewise)
    import leases  # noqa: F401 (likewise)
    import snapshots  # noqa: F401 (likewise)
    import membership  # noqa: F401 (likewise)
    import passwords  # noqa: F401 (likewise)
    import tls  # noqa: F401 (likewise)
    try:
        print(tests.TESTS[name](harness.Target.from_environment()))
        sys.stdout.flush()
        os._exit(0)  # not waiting for gRPC's threads
    except harness.Failure as e:
        print(e)
        sys.stdout.flush()
        os._exit(1)
    except BaseException:  # pylint: disable=broad-except
        import traceback
        traceback.print_exc(file=sys.stdout)
        sys.stdout.flush()
        os._exit(1)


def run_all(names, jobs):
    lock = threading.Lock()
    queue = list(names)
    results = {}

    def worker():
        while True:
            with lock:
                if not queue:
                    return
                name = queue.pop(0)
            start = time.monotonic()
            with subprocess.Popen([sys.executable, os.path.abspath(__file__), "--one", name],
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  errors="replace") as p:
                try:
                    out = p.communicate(timeout=TEST_TIMEOUT_S)[0]
                    code = p.returncode
                except subprocess.TimeoutExpired:
                    p.kill()
                    out, code = p.communicate()[0] + "\nthe test itself did not end", 1
            took = time.monotonic() - start
            lines = out.strip().splitlines() or [""]
            with lock:
                results[name] = code
                print(f"{'ok  ' if code == 0 else 'FAIL'} {name} ({took:.1f} s): "
                      f"{lines[-1] if code == 0 else ''}", flush=True)
                if code != 0:
                    print("     " + "\n     ".join(lines), flush=True)

    workers = [threading.Thread(target=worker) for _ in range(jobs)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    failed = sum(code != 0 for code in results.values())
    print(f"{len(results) - failed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-j", type=int, default=2, dest="jobs")
    parser.add_argument("-l", action="store_true", dest="list", help="list the tests")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    if args.one:
        run_one(args.one)
    sys.path.insert(0, HERE)
    import harness
    import test_checker
    import tests
    import auth  # noqa: F401 (registers its tests)
    import errors  # noqa: F401 (likewise)
    import health  # noqa: F401 (likewise)
    import json_websocket  # noqa: F401 (likewise)
    import leases  # noqa: F401 (likewise)
    import snapshots  # noqa: F401 (likewise)
    import membership  # noqa: F401 (likewise)
    import passwords  # noqa: F401 (likewise)
    import tls  # noqa: F401 (likewise)
    harness.Target.from_environment()
    if test_checker.main() != 0:
        sys.exit("the checker does not see what it should")
    names = sorted(tests.TESTS, key=lambda n: -tests.WEIGHT[n])
    if args.names:
        names = [n for n in names if any(part in n for part in args.names)]
    if args.list:
        print("\n".join(names))
        return 0
    return run_all(names, args.jobs)


if __name__ == "__main__":
    sys.exit(main())
