"""One call to an image worker: requests, the pictures they point into, and the flat answer taken apart again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple

from configs.schema import BlockConfig
from rl.types import ImageReply, ImageRequest, P, Prompt, SamplerSpec, StepPlan, TextPart

_MARKUP = re.compile(r"<[^<>]*>")
"""Tags and picture marks."""


class PaintedBlock(NamedTuple):
    """What came back for one request; all but the reply as they travel, references or arrays."""

    reply: ImageReply
    picture: Any
    segment: Any
    told: Any
    """What the text encoders said."""


@dataclass(frozen=True)
class PaintCall(Generic[P]):
    """Requests for pictures, put together one by one."""

    chain: Mapping[str, BlockConfig]
    """The run's blocks."""
    requests: list[ImageRequest] = field(default_factory=list)
    pictures: list[P] = field(default_factory=list)
    """What the requests' indexes point into."""

    def add(
        self,
        owner: str,
        block: str,
        *,
        pictures: Mapping[str, P],
        words: Mapping[str, str],
        sampler: SamplerSpec,
        seed: int,
        draws: tuple[int | None, StepPlan | None] = (None, None),
    ) -> None:
        """Ask for one picture more.

        Args:
            owner: Whom it is for, e.g. the id of a chain; with the block unique while the request runs.
            block: The image block that is painted.
            pictures: What the policy sees, by name, in order.
            words: ``text``, the chain's so far, and ``question``, the prompt's.
            sampler: How to denoise.
            seed: Of the noise.
            draws: Seed of the initial noise alone and the plan of steps (``step_selection.picture_draws``); None
                takes it from ``seed``, and makes all steps but the last random and trained.
        """
        first = len(self.pictures)
        self.pictures.extend(pictures.values())
        self.requests.append(
            ImageRequest(
                request_id=f"{owner}/{block}",
                block=block,
                size_px=self.chain[block].size_px,
                height_px=self.chain[block].height_px or self.chain[block].size_px,
                num_steps=self.chain[block].num_steps,
                sampler=sampler,
                pictures={name: first + place for place, name in enumerate(pictures)},
                words=words,
                seed=seed,
                source_seed=draws[0],
                steps=draws[1],
            )
        )

    @property
    def num_returns(self) -> int:
        """Objects that answer it: all replies in one, then three of each request."""
        return 1 + 3 * len(self.requests)

    def taken_apart(self, replies: Iterable[ImageReply], parts: Sequence[Any]) -> list[PaintedBlock]:
        """Sort the answer by request.

        Args:
            replies: The first object.
            parts: The others, or references of them.
        """
        return [PaintedBlock(*row) for row in zip(replies, parts[::3], parts[1::3], parts[2::3], strict=True)]


def picture_text(text: str, block: str) -> str:
    """Return a chain's words before image block ``block``: what the image policy is told.

    Args:
        text: The chain's text, tags included.
        block: Name of the image block; where its tag is not there, all words count.
    """
    words = _MARKUP.sub(" ", text.split(f"<{block}>", maxsplit=1)[0])
    return " ".join(words.split())


def question_text(prompt: Prompt[Any]) -> str:
    """Return what a prompt says: the words of its last turn of the user's, '' where it has none."""
    turns = [turn for turn in prompt.messages if turn.role == "user"]
    return "".join(part.text for part in turns[-1].parts if isinstance(part, TextPart)) if turns else ""
