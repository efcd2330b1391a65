"""Loader of one pyiqa metric: never from the network, and with the remedy where that does not work.

torch and pyiqa are imported when the first metric is made. pyiqa itself is under a non-commercial licence.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rewards.core.offline import DownloadRefusedError, refuse_downloads
from rewards.core.one_line import one_line
from rl.compat.torch_load import tensors_only
from rl.compat.torchvision import ensure_torchvision
from rl.errors import ConfigError, UntrustedFileError

logger = logging.getLogger(__name__)

_DOWNLOADING = re.compile(r'Downloading: "(?P<url>[^"]+)" to (?P<path>\S+)')
"""What pyiqa and torch.hub print before they fetch a file."""
_ADDRESS = re.compile(r"https?://\S+")


def create_metric(name: str, *, weights: Path | None, device: str | None, options: Mapping[str, Any]) -> Any:
    """Load a metric of pyiqa.

    Args:
        name: pyiqa's name.
        weights: Weights file; None where it has none, or where they are in the cache of the library that loads them.
        device: torch device; None takes a GPU where the process has one.
        options: Further arguments of the metric.

    Raises:
        ConfigError: If the options do not fit, or the weights are not here or not of this metric.
    """
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    arguments = dict(options)
    if weights is not None:
        arguments["pretrained_model_path"] = str(weights)
    pyiqa = import_pyiqa()
    printed = io.StringIO()
    # A file that the configuration names may be anybody's; what lies in a library's cache, the library put there.
    trusted = nullcontext() if weights is None else tensors_only()
    try:
        with refuse_downloads(), quiet(printed), trusted:
            return pyiqa.create_metric(name, device=torch.device(device), **arguments)
    except (TypeError, ImportError, OSError, RuntimeError, KeyError, EOFError, UntrustedFileError) as error:
        what = _explain(error, weights, arguments, printed.getvalue())
        if what is None:
            raise
        raise ConfigError(f"expert {name} {what}") from error


def import_pyiqa() -> Any:
    """Import pyiqa, on any build of torchvision and whatever is done with warnings.

    It leaves a file open and uses deprecated packages at import; neither is the business of our users.
    """
    ensure_torchvision()
    with quiet():
        import pyiqa
    return pyiqa


@contextlib.contextmanager
def quiet(printed: io.StringIO | None = None) -> Iterator[None]:
    """Keep other people's warnings and prints to themselves; what they print goes to the debug log.

    Args:
        printed: Where to keep a copy of what they print.
    """
    kept = io.StringIO() if printed is None else printed
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(kept),
        contextlib.redirect_stderr(kept),
    ):
        warnings.simplefilter("ignore")
        yield
    for line in kept.getvalue().splitlines():
        logger.debug("%s", line)


def _explain(error: Exception, weights: Path | None, options: Mapping[str, Any], printed: str) -> str | None:
    """Say what to do about an error of pyiqa, or None where it is not the user's to mend."""
    message = one_line(str(error))
    refusal = _refusal(error)
    if refusal is not None:
        return _explain_refusal(refusal, printed)
    if isinstance(error, TypeError):
        return f"does not take {sorted(options)}: {message}"
    if isinstance(error, ImportError):
        return f"needs another package: {message}"
    if weights is not None:
        return (
            f"cannot use {weights}: {message}; want pyiqa's own checkpoint, and the architecture's "
            "arguments in options where they are not the usual ones"
        )
    return None


def _explain_refusal(refusal: BaseException, printed: str) -> str:
    """Name the file that is not here, and where it belongs, as far as the library said."""
    begun = list(_DOWNLOADING.finditer(printed))
    url = refusal.url if isinstance(refusal, DownloadRefusedError) else ""
    if begun:
        wanted, remedy = begun[-1]["url"], f"fetch it as {begun[-1]['path']}"
    elif url:
        wanted, remedy = url, "fetch it into its library's cache"
    else:
        message = one_line(str(refusal))
        address = _ADDRESS.search(message)
        wanted = address[0].rstrip(":.,'") if address else message[:200]
        remedy = "fetch its files into the Hugging Face cache (HF_HOME)"
    return (
        f"wants to download weights, which is never done here ({wanted}): {remedy}, or give the path of its "
        "weights file (weights)"
    )


def _refusal(error: BaseException | None) -> BaseException | None:
    """Find a refused download at the bottom of an error, or a hub client that found itself offline."""
    while error is not None:
        if isinstance(error, DownloadRefusedError) or "offline" in f"{type(error).__name__} {error}".lower():
            return error
        error = error.__cause__ or error.__context__
    return None
