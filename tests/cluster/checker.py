"""Checks recorded histories: linearizable per key, no acknowledged write lost, no stale read.

An Op is one call of one client. Times are monotonic nanoseconds; end is None when the outcome is
unknown (the call may have taken effect at any time after its start, or never).

Two independent checks. values(): black box, only what clients wrote and read. All written values are
unique, so each value with all who saw it is a cluster with a zone, and a register history is
linearizable exactly when no two forward zones overlap and no backward zone lies in a forward one
(Gibbons and Korach 1997). A compare-and-put is a read of the old value and a write of the new one; on
top, no two may succeed from the same value. revisions(): what the store claims about its order must
agree with real time and with what was read.
"""

import bisect
from dataclasses import dataclass
from typing import Optional

INITIAL = None  # the value of a key nobody wrote


@dataclass
class Op:
    client: int
    key: str
    start: int
    end: Optional[int]            # None: unknown
    read: object = False          # value seen; False: saw nothing
    write: object = False         # value written; False: wrote nothing
    read_revision: int = 0        # mod_revision of what was seen
    write_revision: int = 0       # header revision of a successful write
    header_revision: int = 0


NEVER = 1 << 62


def _zones(ops):
    """value -> [min end, max start, description] over its writer and readers."""
    zones = {INITIAL: [-NEVER, -NEVER]}
    writers, swaps, problems = {INITIAL: -NEVER}, {}, []
    for op in ops:
        if op.write is not False:
            if op.write in writers:
                problems.append(f"{op.key}: {op.write} was written twice (a broken test)")
            writers[op.write] = op.start
    seen = {op.read for op in ops if op.read is not False and op.end is not None}
    for op in ops:
        end = NEVER if op.end is None else op.end
        if op.write is not False and (op.end is not None or op.write in seen):
            z = zones.setdefault(op.write, [NEVER, -NEVER])
            z[0], z[1] = min(z[0], end), max(z[1], op.start)
        if op.read is not False and op.end is not None:
            if op.read not in writers:
                problems.append(f"{op.key}: read {op.read}, which nobody wrote")
                continue
            if op.end < writers[op.read]:
                problems.append(f"{op.key}: read {op.read} before it was written")
            z = zones.setdefault(op.read, [NEVER, -NEVER])
            z[0], z[1] = min(z[0], end), max(z[1], op.start)
            if op.write is not False:
                if op.read in swaps:
                    problems.append(f"{op.key}: two swaps succeeded from {op.read}")
                swaps[op.read] = op
    return zones, problems


def values(ops):
    """Problems of the history of one key, as texts."""
    zones, problems = _zones(ops)
    forward = sorted((z[0], z[1], v) for v, z in zones.items() if z[0] < z[1])
    backward = [(z[1], z[0], v) for v, z in zones.items() if z[0] >= z[1]]
    key = ops[0].key if ops else "?"
    for (a_from, a_to, a), (b_from, b_to, b) in zip(forward, forward[1:]):
        if b_from < a_to:
            problems.append(f"{key}: {a} and {b} are each seen before and after the other: "
                            f"[{a_from}, {a_to}] and [{b_from}, {b_to}]")
    starts = [z[0] for z in forward]
    for b_from, b_to, b in backward:
        i = bisect.bisect_left(starts, b_from) - 1
        if i >= 0 and b_to < forward[i][1]:
            problems.append(f"{key}: {b} was written, yet {forward[i][2]} is seen before and "
                            f"after it: lost write or stale read")
    return problems


def revisions(ops):
    """Problems of the whole history with the store's revision numbers."""
    problems = []
    writes = {}
    for op in ops:
        if op.end is None or op.write is False:
            continue
        if op.write_revision in writes:
            problems.append(f"revision {op.write_revision} was given to two writes")
        writes[op.write_revision] = op
    by_value = {(op.key, op.write): op for op in ops if op.write is not False}
    for op in ops:
        if op.end is None or op.read in (False, INITIAL):
            continue
        writer = by_value.get((op.key, op.read))
        if writer is not None and writer.end is not None and \
                writer.write_revision != op.read_revision:
            problems.append(f"{op.key}: {op.read} was written at revision {writer.write_revision} "
                            f"and read with {op.read_revision}")
    # an operation's revision is at least that of every write acknowledged before it began
    events = []
    for op in ops:
        if op.end is not None:
            events.append((op.start, 0, op))
            if op.write is not False:
                events.append((op.end, 1, op))
    acknowledged = 0
    for _, kind, op in sorted(events, key=lambda e: (e[0], e[1])):
        if kind == 1:
            acknowledged = max(acknowledged, op.write_revision)
            continue
        if op.header_revision < acknowledged or \
                (op.write is not False and op.write_revision <= acknowledged):
            problems.append(f"{op.key}: client {op.client} was answered as of revision "
                            f"{op.header_revision} after {acknowledged} had been acknowledged")
    return problems


def check(ops):
    """All problems of a history over any number of keys."""
    keys = {}
    for op in ops:
        keys.setdefault(op.key, []).append(op)
    problems = revisions(ops)
    for key in sorted(keys):
        problems += values(keys[key])
    return problems
