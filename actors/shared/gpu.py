"""GPU memory of workers that take turns: giving it back, and measuring how much it was."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)


def freed(device: torch.device, give: Callable[[], object]) -> int:
    """Have a worker give its GPU memory back, and say how much it was.

    Args:
        device: The worker's. On the CPU nothing is called.
        give: Moves everything away.

    Returns:
        Bytes the device has more free than before; 0 on the CPU.
    """
    if device.type != "cuda":
        logger.info("asked to sleep on the CPU: there is no GPU memory to give back, nothing is moved")
        return 0
    before, _ = torch.cuda.mem_get_info(device)
    give()
    torch.cuda.synchronize(device)
    gc.collect()
    torch.cuda.empty_cache()
    after, _ = torch.cuda.mem_get_info(device)
    logger.info("asleep: %.2f GiB of GPU memory given back", (after - before) / 2**30)
    return after - before
