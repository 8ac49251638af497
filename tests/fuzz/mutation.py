"""Damage to bytes and to values, from a seeded generator."""

import random
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**70), 10**400, 1e308, 1e400, -1e400, float("nan"), 0.5, "", "0", "1",
    "-1", "0001", "nan", "1e999", "9" * 400, "abc", "é", "a\0b", "\ud800", "../../etc/passwd", "/etc/passwd",
    "/dev/zero",
    "a" * 5000, [], [[]], {}, [1], [[1, 2]], [1, 2, 3, 4], ["1", "2", "3", "4"], [float("nan")] * 4, {"size": [1, 1]},
    {"size": [64, 96], "counts": "0"}, {"size": [64, 96], "counts": [0, 64 * 96]}, [[0, 0, 1e300, 0, 1e300, 1e300]],
    {"size": [2**31, 2**31], "counts": [2**62]}, [[10**400, 0, 1, 1, 2, 2]],
    {"size": [64, 96], "counts": "oooooooooooooooo"},
)  # fmt: skip
"""What no file should hold where a number, a name or a list is wanted."""


def damage(content: bytes, rng: random.Random) -> bytes:
    """The bytes with a few of them changed, cut off, doubled or taken out."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        if not data:
            break
        place = rng.randrange(len(data))
        what = rng.randrange(7)
        if what == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif what == 1:
            data[place] = rng.choice((0, 255, 127, 128))
        elif what == 2:
            data[place : place + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"))
        elif what == 3:
            del data[place:]
        elif what == 4:
            del data[place : place + rng.randrange(1, 64)]
        elif what == 5:
            data[place:place] = data[place : place + rng.randrange(1, 64)] * rng.choice((1, 3, 50))
        else:
            data[place:place] = rng.randbytes(rng.randrange(1, 16))
    return bytes(data)


def spoil(value: Any, rng: random.Random) -> Any:
    """Nested lists and mappings with one value replaced, removed or doubled, anywhere inside."""
    if isinstance(value, dict) and value and rng.random() < 0.95:
        key = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: spoil(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        if rng.random() < 0.1:
            return value[:place] + value[place + 1 :]
        if rng.random() < 0.1:
            return [*value, value[place]]
        return [*value[:place], spoil(value[place], rng), *value[place + 1 :]]
    return rng.choice(VALUES)
