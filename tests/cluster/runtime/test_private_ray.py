"""A private Ray is of this machine and run alone: where it listens, its token, and what it leaves behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reference.command import INTERRUPTIBLE, ROOT, interrupt

pytestmark = pytest.mark.ray

PROGRAM = """
import json, time
import psutil, ray
from cluster.runtime.ray_session import private_ray

@ray.remote
class Worker:
    def ready(self):
        return ray.util.get_node_ip_address()

with private_ray({}, 100 << 20):
    worker = Worker.remote()
    address = ray.get(worker.ready.remote(), timeout=60)
    me = psutil.Process()
    family = [me, *me.children(recursive=True)]
    sockets = [(p.name(), c.laddr.ip) for p in family for c in p.net_connections("inet") if c.status == "LISTEN"]
    folder = ray._private.worker._global_node.get_session_dir_path()
    print(json.dumps({"address": address, "sockets": sockets, "folder": folder}), flush=True)
    time.sleep(60)
"""


def test_it_listens_to_this_machine_and_leaves_nothing_after_ctrl_c(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    environment.pop("RAY_AUTH_MODE", None)
    with subprocess.Popen(
        [*INTERRUPTIBLE, sys.executable, "-c", PROGRAM],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        seen = json.loads(process.stdout.readline())
        assert Path(seen["folder"]).is_dir()
        _, err = interrupt(process)
    assert seen["address"] == "127.0.0.1"
    assert {name for name, _ in seen["sockets"]} >= {"gcs_server", "raylet"}
    assert {ip.removeprefix("::ffff:") for _, ip in seen["sockets"]} == {"127.0.0.1"}
    assert "authentication" not in err
    assert not Path(seen["folder"]).exists()
    assert not (tmp_path / ".ray").exists()


def test_a_ray_that_does_not_start_costs_one_line() -> None:
    program = "from cluster.runtime.ray_session import private_ray\nwith private_ray({}, 1): print('started')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("rl.errors.RayStartError: Ray did not start: "), done.stderr
    assert last.endswith("and try again")
    assert not done.stdout
