"""Network interface of a host by which its collectives must go."""

from __future__ import annotations

import socket

import psutil

from rl.errors import LearnerError


def interface_towards(address: str, port: int) -> str:
    """Return the name of the interface by which this host reaches another.

    gloo takes the interface that the host's own name resolves to, which on many machines is the loopback, or a
    network that the other hosts are not on.

    Args:
        address: Of the other host, or of this one.
        port: Any port there; nothing is sent.

    Raises:
        LearnerError: If there is no way to that host.
    """
    family, kind, _, _, target = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
    try:
        with socket.socket(family, kind) as probe:
            probe.connect(target)
            own = probe.getsockname()[0]
    except OSError as error:
        raise LearnerError(f"this host has no way to {address}: {error}; look at its routes") from error
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == own for entry in addresses):
            return name
    raise LearnerError(f"no interface of this host has the address {own}, by which it reaches {address}")
