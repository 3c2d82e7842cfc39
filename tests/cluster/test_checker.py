"""The checker must see what it is there for: good histories pass, each kind of bad one is named."""

import sys

import checker
from checker import Op


def w(start, end, value, rev=0):
    return Op(0, "k", start, end, write=value, write_revision=rev, header_revision=rev)


def r(start, end, value, rev=0, header=0):
    return Op(1, "k", start, end, read=value, read_revision=rev, header_revision=header or rev)


def cas(start, end, old, new, rev=0):
    return Op(2, "k", start, end, read=old, write=new, write_revision=rev, header_revision=rev)


GOOD = {
    "empty key": [r(1, 2, None)],
    "in order": [w(1, 2, "a"), r(3, 4, "a"), w(5, 6, "b"), r(7, 8, "b")],
    "overlapping writes, either order": [w(1, 9, "a"), w(2, 8, "b"), r(10, 11, "a")],
    "read during a write sees old, then new": [w(1, 10, "a"), r(2, 3, None), r(4, 5, "a")],
    "unknown write seen late": [w(1, 2, "a"), w(3, None, "b"), r(5, 6, "a"), r(7, 8, "b")],
    "unknown write never seen": [w(1, 2, "a"), w(3, None, "b"), r(5, 6, "a"), w(7, 8, "c")],
    "swap": [w(1, 2, "a"), cas(3, 4, "a", "b"), r(5, 6, "b")],
}
BAD = {
    "lost write": [w(1, 2, "a"), r(3, 4, None)],
    "stale read": [w(1, 2, "a"), w(3, 4, "b"), r(5, 6, "a")],
    "back and forth": [w(1, 9, "a"), w(1, 9, "b"), r(10, 11, "a"), r(12, 13, "b"),
                       r(14, 15, "a")],
    "a value from nowhere": [w(1, 2, "a"), r(3, 4, "x")],
    "read before it was written": [r(1, 2, "a"), w(3, 4, "a")],
    "two swaps from one value": [w(1, 2, "a"), cas(3, 9, "a", "b"), cas(3, 9, "a", "c")],
    "unknown write seen, then gone": [w(1, 2, "a"), w(3, None, "b"), r(5, 6, "b"), r(7, 8, "a")],
    "overwritten between": [w(1, 2, "a"), r(3, 4, "a"), w(5, 6, "b"), r(7, 8, "a")],
}
BAD_REVISIONS = {
    "answered from the past": [w(1, 2, "a", 5), r(3, 4, "a", 5, header=4)],
    "order against real time": [w(1, 2, "a", 5), w(3, 4, "b", 4)],
    "one revision twice": [w(1, 9, "a", 5), w(1, 9, "b", 5)],
    "another revision when read": [w(1, 2, "a", 5), r(3, 4, "a", 6)],
}


def main():
    failed = 0
    for name, ops in GOOD.items():
        problems = checker.values(ops)
        if problems:
            failed += 1
            print(f"good history refused: {name}: {problems}")
    for name, ops in BAD.items():
        if not checker.values(ops):
            failed += 1
            print(f"bad history accepted: {name}")
    for name, ops in BAD_REVISIONS.items():
        if not checker.revisions(ops):
            failed += 1
            print(f"bad revisions accepted: {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
