"""The errors this project raises. All survive a trip between Ray processes with type and message.

Each takes one argument, the message, so ``pickle`` rebuilds it as it was.
"""

from __future__ import annotations

from configs.errors import ConfigError as ConfigError
from configs.errors import VlcotError as VlcotError


class DataError(ConfigError):
    """A photograph, sidecar or folder that cannot be used."""


class DamagedFileError(ConfigError):
    """A file of ours that was emptied, cut or changed."""


class UntrustedFileError(ConfigError):
    """A file of a run, a checkpoint or a storage that would run code, or reach out of its folder."""


class OwnedError(ConfigError):
    """A folder that another process works in."""


class DiskFullError(VlcotError):
    """What was being written does not fit on the disk."""


class RolloutError(VlcotError):
    """A rollout worker could not generate."""


class RewardError(VlcotError):
    """A reward could not be set up, or failed where its policy is ``raise``."""


class LearnerError(VlcotError):
    """A learner rank could not update."""


class DivergedError(LearnerError):
    """Loss or gradient is not finite."""


class WeightSyncError(VlcotError):
    """New weights did not arrive intact, or the worker does not compute with them."""


class AlarmError(VlcotError):
    """A watched metric falls while what is trained rises, and ``on_alarm`` is ``stop``."""

    exit_code = 3


class WorkerLostError(VlcotError):
    """A worker process ended, or its host is gone."""


class LostDataError(VlcotError):
    """What a lost worker or host had made is gone."""


class StorageError(VlcotError):
    """What is copied to ``storage_path`` did not arrive, or cannot be fetched."""


class CallTimeoutError(VlcotError):
    """A remote call outlived its deadline."""


class ImportOriginError(ConfigError):
    """A package of ours was imported from somewhere else on a node."""


class RayStartError(VlcotError):
    """The private Ray did not come up."""
