"""The interface of a host's own address."""

import socket

import psutil
import pytest

from actors.shared.network import interface_towards
from rl.errors import LearnerError


def test_the_way_to_this_host_is_the_loopback():
    name = interface_towards("127.0.0.1", 9)
    assert "127.0.0.1" in {entry.address for entry in psutil.net_if_addrs()[name]}


def test_every_own_address_leads_to_its_own_interface():
    own = [
        (name, entry.address)
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family == socket.AF_INET
    ]
    for name, address in own:
        assert interface_towards(address, 9) == name


def test_a_host_without_a_way_is_an_error_that_names_it():
    with pytest.raises(LearnerError, match=r"no way to 255\.255\.255\.255"):
        interface_towards("255.255.255.255", 9)
