"""Keyed hashes and pseudo-random permutations of range(n), vectorised, without memory or state.

The order of the data and the noise keys of its rows are values of these functions, so any process can compute any
part of them at any time. `permute` is a Feistel network over the factors of a b >= n (a ~ b ~ sqrt(n)), which is a
bijection whatever its round function; a value that lands in [n, a b) is sent through again (cycle walking), which
stays a bijection on range(n). a b - n < a, so hardly any value walks.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def name_key(name: str) -> int:
    """63-bit integer that stands for a name in `hash64`."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1


def hash64(*parts: ArrayLike) -> NDArray[np.uint64]:
    """64-bit hash of integers >= 0; arrays broadcast. Order matters: hash64(a, b) != hash64(b, a)."""
    hashed = np.zeros(1, dtype=np.uint64)
    for part in parts:
        hashed = _mix((hashed + _GOLDEN) ^ _mix(np.atleast_1d(np.asarray(part, dtype=np.uint64)) + _GOLDEN))
    return hashed


def permute(index_N: ArrayLike, n: int, key: ArrayLike) -> NDArray[np.int64]:
    """Images of `index_N` (each in range(n)) under the permutation of range(n) named by `key`.

    `key` is one uint64 or one per index. Raises IndexError for an index outside range(n).
    """
    value_N = np.atleast_1d(np.asarray(index_N, dtype=np.int64))
    if value_N.size and (value_N.min() < 0 or value_N.max() >= n):
        raise IndexError(f"index outside range({n})")
    value_N = value_N.astype(np.uint64)
    key_N = np.broadcast_to(np.asarray(key, dtype=np.uint64), value_N.shape)
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    value_N = _feistel(value_N, key_N, a, b)
    while (outside := value_N >= n).any():
        value_N[outside] = _feistel(value_N[outside], key_N[outside], a, b)
    return value_N.astype(np.int64)


def _feistel(value_N: NDArray[np.uint64], key_N: NDArray[np.uint64], a: int, b: int) -> NDArray[np.uint64]:
    left_N, right_N = np.divmod(value_N, np.uint64(b))
    for r in range(_ROUNDS):
        if r % 2 == 0:
            left_N = (left_N + hash64(key_N, r, right_N) % np.uint64(a)) % np.uint64(a)
        else:
            right_N = (right_N + hash64(key_N, r, left_N) % np.uint64(b)) % np.uint64(b)
    return left_N * np.uint64(b) + right_N


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): a bijection that spreads every bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
