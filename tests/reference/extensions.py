"""One of each extension, each a file outside the checkout, and the line of configuration that names it."""

from __future__ import annotations

from pathlib import Path

FILES = {
    "my_reward": '''
from rewards.base import Reward

class Shortness(Reward):
    """Fewer words are better."""

    def score(self, chains):
        return [1.0 / (1 + len(chain.text.split())) for chain in chains]
''',
    "my_loss": '''
import torch

def soft_ppo(inputs, *, temperature=1.0):
    """A sigmoid in place of the clip."""
    return inputs.advantages * 4 / temperature * torch.sigmoid(temperature * (inputs.log_ratio.exp() - 1))
''',
    "my_baseline": '''
import numpy as np

def median(values, groups, weights):
    """Compare a chain with the median of its group."""
    return [float(np.median(values[groups == group])) for group in groups]
''',
    "my_sampler": """
import torch
from rl.denoising.samplers import Sampler, sde_mean

QUIET = Sampler(std=lambda t, t_next, a: 0.5 * a * torch.sqrt(t - t_next), mean=sde_mean)
""",
    "my_tracker": '''
from pathlib import Path
from cluster.record.trackers.base import Tracker

class Lines(Tracker):
    """A line a step."""

    def begin(self, run, kept):
        self.file = Path(run.run_dir) / "lines.txt"
        return {}

    def log(self, step, metrics):
        with self.file.open("a") as file:
            file.write(f"{step} {metrics.get('reward/shortness/mean')}\\n")

    def chains(self, step, chains):
        pass

    def end(self, outcome):
        pass
''',
    "my_data": '''
import numpy as np
from rl.data.source import PromptSource
from rl.restoration.names import restoration_prompt
from rl.restoration.labels import all_degradation_texts

class Gradients(PromptSource):
    """Grey gradients, four times larger than what is shown of them."""

    def __init__(self, *, seed, edge):
        self.seed, self.edge = seed, edge

    def _prompt(self, name, index):
        rows = np.random.default_rng([self.seed, index]).integers(0, 255, size=(self.edge, 1, 3), dtype=np.uint8)
        truth = np.repeat(rows, self.edge, axis=1)
        return restoration_prompt(f"gradient/{name}/{index}", truth[::4, ::4], truth, labels=(), tags=("grey",))

    def train(self, index):
        return self._prompt("train", index)

    def held_out(self, num):
        return [self._prompt("held-out", 1_000_000 + index) for index in range(num)]
''',
    "my_family": """
from dataclasses import replace
from actors.policies.token.family import LANGUAGE_MODEL

MINE = replace(LANGUAGE_MODEL, name="mine")
""",
}
SETTINGS = [
    "rewards.shortness.target=my_reward:Shortness",
    "policies.text.loss.surrogate=my_loss:soft_ppo",
    "advantage.baseline=my_baseline:median",
    "policies.image.rollout.sampler=my_sampler:QUIET",
    "trackers=['my_tracker:Lines']",
    "data={target: 'my_data:Gradients', options: {edge: 64}}",
    "policies.text.family=my_family:MINE",
]
"""One line each."""


def write_extensions(folder: Path) -> list[str]:
    """Write the files and return all settings."""
    folder.mkdir()
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(text)
    return [f"plugins=[{folder}]", *SETTINGS]
