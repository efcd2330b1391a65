"""Loading of pickled weights that cannot run code, whatever the library that calls ``torch.load`` asks for.

pyiqa loads with ``weights_only=False``: a file that somebody else wrote may then run anything. torch has a switch that
overrules its callers; it is on inside the block only, so that a user's own code loads as it likes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError

from rl.errors import UntrustedFileError

_SWITCH = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_FOREIGN = re.compile(r"(?:GLOBAL|whose module) (\S+)")
"""How torch names what it does not load."""


@contextmanager
def tensors_only() -> Iterator[None]:
    """Have ``torch.load`` refuse, inside the block and in this process, all but tensors and plain values.

    Raises:
        UntrustedFileError: If a file holds anything else. Nothing of it was run.
    """
    before = os.environ.get(_SWITCH)
    os.environ[_SWITCH] = "1"
    try:
        yield
    except UnpicklingError as error:
        foreign = _FOREIGN.search(str(error))
        what = f"it holds {foreign[1]}" if foreign else "it holds something else, or is damaged"
        raise UntrustedFileError(
            f"a file of weights is refused: {what}. Only tensors and plain values are loaded, for anything else can "
            "run code (docs/security.md)"
        ) from error
    finally:
        if before is None:
            del os.environ[_SWITCH]
        else:
            os.environ[_SWITCH] = before
