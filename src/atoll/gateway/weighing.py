"""Which version of a service a client meets, worked out as Envoy does it: XXH64 of the token's subject, of a hundred. Pure.

`tests/e2e/test_gateway_canary.py` holds it to the answers of a real Envoy.
"""

from __future__ import annotations

from atoll.gateway.ir import Canary

__all__ = ["meets"]

_MASK = (1 << 64) - 1
_ONE, _TWO, _THREE = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_FOUR, _FIVE = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_STRIPE, _LANES = 32, (0, 8, 16, 24)


def meets(canary: Canary, subject: str) -> bool:
    """Whether who has a token of ours for `subject` meets the canary."""
    return _xxh64(subject.encode()) % 100 < canary.percent


def _xxh64(data: bytes) -> int:
    """The published algorithm with seed 0, github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md."""
    whole = len(data) // _STRIPE * _STRIPE
    found = (_stripes(data[:whole]) if whole else _FIVE) + len(data)
    rest = data[whole:]
    while len(rest) >= 8:
        found, rest = _rotated(found ^ _round(0, _number(rest[:8])), 27) * _ONE + _FOUR, rest[8:]
    if len(rest) >= 4:
        found, rest = _rotated(found ^ (_number(rest[:4]) * _ONE), 23) * _TWO + _THREE, rest[4:]
    for byte in rest:
        found = _rotated(found ^ (byte * _FIVE), 11) * _ONE
    return _avalanche(found & _MASK)


def _stripes(data: bytes) -> int:
    lanes = [_ONE + _TWO, _TWO, 0, -_ONE]
    for at in range(0, len(data), _STRIPE):
        lanes = [_round(lane, _number(data[at + o : at + o + 8])) for lane, o in zip(lanes, _LANES, strict=True)]
    found = sum(_rotated(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True))
    for lane in lanes:
        found = (found ^ _round(0, lane)) * _ONE + _FOUR
    return found


def _avalanche(found: int) -> int:
    found = (found ^ found >> 33) * _TWO & _MASK
    found = (found ^ found >> 29) * _THREE & _MASK
    return found ^ found >> 32


def _round(lane: int, number: int) -> int:
    return _rotated(lane + number * _TWO, 31) * _ONE & _MASK


def _rotated(number: int, bits: int) -> int:
    number &= _MASK
    return (number << bits | number >> 64 - bits) & _MASK


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")
