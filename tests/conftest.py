"""What all tests share: few threads, no network, and one Ray for all tests that want it."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reference.command import ROOT

TABLES = tempfile.mkdtemp(prefix="vlcot-tables-")
atexit.register(shutil.rmtree, TABLES, ignore_errors=True)

# Before any library reads them. Tests start many processes on few cores, and must never reach out.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_CACHE": TABLES,
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Ray's workers would give way to whatever else the suite computes, and miss their deadlines.
    "RAY_worker_niceness": "0",
    # Ray would start a worker a core at once, each importing torch.
    "RAY_prestart_worker_first_driver": "0",
    # The suite has put the programs of its environment on the path, as the command line does (ninja).
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
}


VLLM_FILES = {
    "tests/actors/policies/test_lora_policies.py",
    "tests/actors/rollout/test_language_models.py",
    "tests/actors/rollout/test_text_worker.py",
    "tests/actors/rollout/test_vllm_grammar.py",
    "tests/actors/rollout/test_vllm_guidance.py",
    "tests/actors/rollout/test_vllm_masks.py",
    "tests/rewards/test_vlm_judge.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """End-to-end tests first: the processes share the files, and the longest must not come last."""
    items.sort(key=lambda item: "e2e" not in item.path.parts)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep with one process the end-to-end tests, of which each starts many, and the files that import vLLM.

    Two trainings at once on two cores take longer than one after the other, and miss their deadlines. To import vLLM
    takes as long as starting an engine.
    """
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            if file.startswith("tests/e2e/"):
                return "end to end"
            return "vllm" if file in VLLM_FILES else file

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Hold torch to one thread in tests that use it, without loading it in those that do not."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _own_process_group() -> Iterator[None]:
    """End the process group that a file's tests leave in this process: the next file's would be in it."""
    yield
    if "deepspeed" in sys.modules:
        from actors.shared.deepspeed_engine import stop_process_group

        stop_process_group()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Run one private Ray for all tests; they name their actors apart and end them themselves."""
    import ray

    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        object_store_memory=512 << 20,
        log_to_driver=False,
        configure_logging=False,
        runtime_env={
            "env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        },
    )
    yield
    ray.shutdown()
