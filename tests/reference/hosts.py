"""Hosts of our own making: network namespaces on one bridge, each with its address and a Ray node in it.

As far as the network goes they are machines: what goes from one to another goes over the bridge, and a cut link
is a cut cable. They share cores, memory and file system.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.reference.command import ROOT

PORT = 6379
OBJECT_STORE_BYTES = 256 << 20
RAY = {
    # A silent node is given up after some 30 s instead of a minute.
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "5",
    # The nodes share one memory: when it runs low, each would kill its workers for what others use.
    "RAY_memory_monitor_refresh_ms": "0",
}
"""What the nodes are told."""
STARTS = 3
"""Ray gives a node up that is not there within 30 s, which is little where others compute: it is started again."""
STARTED = "Ray runtime started"
"""What ``ray start`` says when the node is in the cluster."""


class ForbiddenError(Exception):
    """The kernel, or the lack of a program or of rights, does not let us make namespaces."""


def check_allowed() -> None:
    """Raise ``ForbiddenError`` where no host can be made."""
    name = f"vlcot{os.getpid()}-try"
    _ip("netns", "add", name)
    _ip("netns", "delete", name)


class Hosts:
    """Some hosts while they last; use as a context manager."""

    def __init__(self, num: int) -> None:
        self._name = f"vlcot{os.getpid()}"
        self._subnet = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
        self._num = num
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._made: list[str] = []

    def __enter__(self) -> Hosts:
        # Short: Ray's sockets lie below it, and their paths have a limit of 107 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="vh", dir="/tmp"))
        try:
            self._wire()
            self._start_ray()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End what runs in the namespaces, and remove them."""
        for namespace in self._made:
            pids = subprocess.run(
                ["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False
            )
            for pid in pids.stdout.split():
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    continue
        for node in self._nodes:
            node.wait(timeout=30)
        for namespace in self._made:
            subprocess.run(["ip", "netns", "delete", namespace], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    # ------------------------------------------------------------------------ what tests use

    def address(self, host: int) -> str:
        """Of a host; 0 is the head, whose Ray has no CPU for actors."""
        return f"{self._subnet}.{host + 1}"

    @property
    def ray_address(self) -> str:
        """What a driver joins."""
        return f"{self.address(0)}:{PORT}"

    def inside(self, host: int, *words: str) -> list[str]:
        """Return the command that runs a command on a host."""
        return ["ip", "netns", "exec", self._namespace(host), *words]

    def cut(self, host: int) -> None:
        """Pull the host's cable."""
        _ip("-n", self._namespace(host), "link", "set", "eth0", "down")

    # ------------------------------------------------------------------------ making

    def _namespace(self, host: int | str) -> str:
        return f"{self._name}-{host}"

    def _wire(self) -> None:
        switch = self._add("switch")
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", switch, "addr", "add", f"{self._subnet}.254/24", "dev", "br0")
        _ip("-n", switch, "link", "set", "br0", "up")
        for host in range(self._num):
            inside, plug = self._add(host), f"port{host}"
            _ip("-n", inside, "link", "set", "lo", "up")
            _ip("-n", inside, "link", "add", "eth0", "type", "veth", "peer", "name", plug, "netns", switch)
            _ip("-n", switch, "link", "set", plug, "master", "br0", "up")
            _ip("-n", inside, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            _ip("-n", inside, "link", "set", "eth0", "up")
            _ip("-n", inside, "route", "add", "default", "via", f"{self._subnet}.254")

    def _add(self, host: int | str) -> str:
        namespace = self._namespace(host)
        _ip("netns", "add", namespace)
        self._made.append(namespace)
        return namespace

    def _start_ray(self) -> None:
        head = [f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={self._folder}"]
        self._start_node(0, ["--head", *head])
        for host in range(1, self._num):
            self._start_node(host, [f"--address={self.ray_address}", "--num-cpus=16"])

    def _start_node(self, host: int, words: Sequence[str]) -> None:
        """Start Ray's processes on a host and wait until they are in the cluster."""
        ray = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--disable-usage-stats"]
        limits = [f"--node-ip-address={self.address(host)}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        command = self.inside(host, *ray, *limits, *words)
        path = self._folder / f"node{host}.log"
        for _ in range(STARTS):
            with path.open("wb") as log:
                node = subprocess.Popen(
                    command,
                    env=environment(RAY),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._nodes.append(node)
            while node.poll() is None:
                if STARTED in path.read_text(errors="replace"):
                    return
                time.sleep(0.5)
        raise AssertionError(path.read_text(errors="replace"))


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what Ray's nodes and drivers need of ours; nobody else reaches their network, so they ask no token."""
    ours = {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "RAY_AUTH_MODE": "disabled"}
    return {**os.environ, **ours, **(more or {})}


def _ip(*words: str) -> None:
    try:
        subprocess.run(["ip", *words], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise ForbiddenError("the program ip is missing (Debian: iproute2)") from None
    except subprocess.CalledProcessError as error:
        raise ForbiddenError(f"ip {' '.join(words)}: {error.stderr.strip()}") from None
