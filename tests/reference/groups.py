"""Small scored groups for tests of the pure algorithm."""

from collections.abc import Mapping, Sequence

import numpy as np

from rl.types import Chain, Finish, ScoredGroup, Scores, SegmentInfo


def make_scores(
    name: str,
    values: Sequence[float],
    *,
    valid: Sequence[bool] | None = None,
    missing: Sequence[bool] | None = None,
) -> Scores:
    ok = np.ones(len(values), dtype=bool) if valid is None else np.asarray(valid, dtype=bool)
    return Scores(
        name=name,
        values=np.where(ok, np.asarray(values, dtype=np.float32), np.float32(np.nan)),  # poison
        valid=ok,
        missing=np.zeros(len(values), dtype=bool) if missing is None else np.asarray(missing, dtype=bool),
        reasons=tuple("" if v else "scorer broke" for v in ok),
    )


def make_chain(
    group_id: str, index: int, segments: Sequence[SegmentInfo] = (), finish: Finish = Finish.STOP
) -> Chain:
    return Chain(
        chain_id=f"{group_id}/{index}",
        group_id=group_id,
        index=index,
        finish=finish,
        error="",
        text="",
        segments=tuple(segments),
        pictures={},
        versions={},
    )


def make_group(
    group_id: str,
    scores: Mapping[str, Scores],
    *,
    segments: Sequence[Sequence[SegmentInfo]] | None = None,
) -> ScoredGroup:
    size = len(next(iter(scores.values())).values)
    return ScoredGroup(
        group_id=group_id,
        prompt_id=group_id,
        chains=tuple(make_chain(group_id, i, () if segments is None else segments[i]) for i in range(size)),
        scores=scores,
        seconds={"rollout": 0.0, "reward": 0.0},
    )


def text_segment(blocks: Mapping[str, int], *, policy: str = "text", length: int = 10) -> SegmentInfo:
    return SegmentInfo(
        policy=policy, handle=object(), blocks=tuple(blocks), num_actions=blocks, shape_key=(), length=length
    )


def image_segment(block: str, *, num_actions: int, size_px: int = 16, policy: str = "image") -> SegmentInfo:
    return SegmentInfo(
        policy=policy,
        handle=object(),
        blocks=(block,),
        num_actions={block: num_actions},
        shape_key=(size_px, num_actions + 1),
        length=num_actions + 1,
    )
