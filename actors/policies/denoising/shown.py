"""Pictures as a pipeline is shown them: brought to the size that its call says, bicubically or by a restorer.

Rollout, learner and cold start all do it here, so that what is scored and taught is what was painted from.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from configs.call import Shown
from rewards.experts.real_esrgan import restored
from rl.types import Pixels


def as_shown(picture: Pixels, shown: Shown, painted: tuple[int, int]) -> Pixels:
    """Return a picture as an argument of the call gets it.

    Args:
        picture: ``uint8[h, w, 3]``.
        shown: The argument.
        painted: Height and width of the picture that is painted, pixels.

    Raises:
        ConfigError: If a restorer is asked for and has no such factor, or is not installed.
    """
    size = shown.size_for(painted)
    if size is None or picture.shape[:2] == size:
        return picture
    if shown.is_restored:
        return restored(picture, size)
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BICUBIC))
