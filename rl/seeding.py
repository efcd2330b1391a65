"""Seeds that depend on what is made, never on when or where it is made."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Hash named parts to a seed in ``[0, 2**63)``.

    Args:
        parts: For a chain: run seed, prompt id, draw, index, block. Order and types matter.

    Returns:
        The same number in every process and on every machine.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
