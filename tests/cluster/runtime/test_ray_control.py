"""Ray's control process: when it dies, whoever waits learns it soon, in one line, and Ray can start anew."""

import subprocess
import sys

import pytest

from tests.reference.command import DEADLINE_S, ROOT

SESSION = """
import os, signal, sys, threading, time
import ray
from cluster.cli import exit_code_of
from cluster.run.restarts import losses_named, surviving
from cluster.runtime.calls import gather
from cluster.runtime.interrupts import INTERRUPTS
from cluster.runtime.ray_session import ray_session
from cluster.runtime.spawn import spawn
from cluster.record.rundir import RunDir
from configs.load import load_config
from pathlib import Path

class Sleeper:
    def sleep(self):
        time.sleep(600)

attempts = []

def attempt():
    with ray_session(load_config("tiny")), losses_named():
        if attempts:
            print("again", ray.is_initialized(), flush=True)
            return
        attempts.append(1)
        sleeper = spawn(Sleeper, "sleeper-0", num_cpus=0, kwargs={})
        (server,) = ray._private.worker._global_node.all_processes["gcs_server"]
        threading.Timer(2.0, os.kill, (server.process.pid, signal.SIGKILL)).start()
        gather([sleeper.call("sleep")], deadline_s=300)

INTERRUPTS.install()
config = load_config("tiny")
sys.exit(exit_code_of(lambda: surviving(config, RunDir(Path("nowhere")), attempt)))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_the_end_of_the_control_process_is_a_loss_like_that_of_a_host():
    done = subprocess.run(
        [sys.executable, "-c", SESSION],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    out, err = done.stdout, done.stderr
    assert done.returncode == 0, err
    assert "again True" in out
    assert (
        "Ray's control process (gcs_server) ended, and all of this Ray with it; going on from the start"
        in err
    )
    assert "Traceback" not in err
    assert "Failed to connect to GCS" not in err
