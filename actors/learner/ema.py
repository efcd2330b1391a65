"""Moving average of the trained weights: what is evaluated and exported.

It follows the float32 master weights that the optimizer updates, and of those only the shards of this rank, so
an update sends nothing. It knows neither DeepSpeed nor what the shards are shards of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

EXCHANGE_ELEMENTS = 1 << 24
"""Elements copied at once where average and masters change places; bounds the extra memory, 64 MiB."""


def decay_at(num_updates: int, decay: float) -> float:
    """Return the decay of the next update: small at first, so that the start is soon forgotten.

    Args:
        num_updates: Updates made so far, n.
        decay: Its highest value, 0..1.

    Returns:
        ``min(decay, (1 + n) / (10 + n))``.

    Source:
        TensorFlow's ``tf.train.ExponentialMovingAverage`` with ``num_updates``; Flow-GRPO's released code
        (Liu et al. 2025) has the same.
    """
    return min(decay, (1 + num_updates) / (10 + num_updates))


class WeightAverage:
    """The moving average of one rank's shards.

    Args:
        masters: This rank's shards of the trained weights, float32; updated in place by the optimizer.
        decay: Of ``decay_at``. Larger remembers longer.
        refresh: Makes the model's own weights those of the masters, on all ranks together.
    """

    def __init__(self, masters: Sequence[Tensor], decay: float, refresh: Callable[[], None]) -> None:
        self.num_updates = 0
        """So far; set where a saved average goes on."""
        # The very tensors: an alias would miss it when a sleeping learner moves them.
        self._masters = list(masters)
        self._decay = decay
        self._refresh = refresh
        self.shards = [master.detach().clone() for master in self._masters]
        """The average of each of the masters."""

    def update(self) -> None:
        """Move towards the masters: ``average = d * average + (1 - d) * masters``. Call it after every step."""
        weight = 1 - decay_at(self.num_updates, self._decay)
        for shard, master in zip(self.shards, self._masters, strict=True):
            shard.lerp_(master.detach(), weight)
        self.num_updates += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Have the model compute with the average inside, and with what it trained, to the last bit, after it.

        All ranks must enter and leave it together. No step may be made inside.
        """
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def restart(self) -> None:
        """Begin again at the present masters."""
        self.num_updates = 0
        for shard, master in zip(self.shards, self._masters, strict=True):
            shard.copy_(master.detach())

    def follow(self) -> None:
        """Move the average to where the masters are now; they are the optimizer's."""
        pairs = zip(self.shards, self._masters, strict=True)
        self.shards = [shard.to(master.device) for shard, master in pairs]

    def _exchange(self) -> None:
        """Let masters and average change places: what DeepSpeed holds are the masters' very buffers."""
        for shard, master in zip(self.shards, self._masters, strict=True):
            parts = zip(shard.split(EXCHANGE_ELEMENTS), master.detach().split(EXCHANGE_ELEMENTS), strict=True)
            for averaged, trained in parts:
                kept = averaged.clone()
                averaged.copy_(trained)
                trained.copy_(kept)
        self._refresh()
