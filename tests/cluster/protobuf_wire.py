"""Protobuf's encoding, as much of it as tests need that speak to a member without generated classes."""


def varint(n):
    """Negative numbers as protobuf writes an int64."""
    out = bytearray()
    n &= (1 << 64) - 1
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def field(number, value):
    """One field: a number, or bytes or text behind their length."""
    if isinstance(value, (bytes, str)):
        data = value.encode() if isinstance(value, str) else value
        return varint(number << 3 | 2) + varint(len(data)) + data
    return varint(number << 3) + varint(int(value))


def msg(*pairs):
    """A message of (number, value) pairs; a list as value is a repeated field."""
    return b"".join(field(number, v) for number, value in pairs
                    for v in (value if isinstance(value, list) else [value]))


def fields(data):
    """(number, value) of each field in order: an int, or bytes."""
    pos = 0

    def number():
        nonlocal pos
        v = shift = 0
        while True:
            b = data[pos]
            pos += 1
            v |= (b & 0x7F) << shift
            shift += 7
            if b < 0x80:
                return v

    while pos < len(data):
        tag = number()
        if tag & 7 == 0:
            yield tag >> 3, number()
        else:
            size = number()
            yield tag >> 3, data[pos:pos + size]
            pos += size


def fields_of(data):
    """{number: [value, ...]}"""
    found = {}
    for number, value in fields(data):
        found.setdefault(number, []).append(value)
    return found
