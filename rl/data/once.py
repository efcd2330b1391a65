"""Lines of the log that are said once a process."""

from __future__ import annotations

import logging
from functools import lru_cache

logger = logging.getLogger(__name__)


@lru_cache(maxsize=1024)
def say_once(line: str, level: int = logging.INFO) -> None:
    """Log a line, unless this process has."""
    logger.log(level, "%s", line)
