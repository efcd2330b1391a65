"""Rendezvous of processes that make a group: an address of one of them and a free port there."""

from __future__ import annotations

import socket

import ray.util

from cluster.runtime.calls import Call, Worker, gather


def rendezvous(rank: Worker, *, deadline_s: float) -> tuple[str, int]:
    """Return an address of a rank's machine, and a TCP port that is free there now."""
    # Ray runs it inside the actor's process; the actor itself is not used.
    ref = rank.actor.__ray_call__.remote(_address)
    (meeting,) = gather([Call(name=rank.name, method="rendezvous", ref=ref)], deadline_s=deadline_s)
    address, port = meeting
    return str(address), int(port)


def _address(_: object) -> tuple[str, int]:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return ray.util.get_node_ip_address(), listener.getsockname()[1]
