"""A run directory of a painter that learns to paint noise, scored by the planted reward and its watcher themselves."""

import numpy as np
from skimage.metrics import peak_signal_noise_ratio

from benchmarks.hackable import LocalContrast, local_contrast
from cluster.record.recorder import ChainRecorder, chains_to_record
from cluster.record.sinks import JsonlSink
from cluster.run.alarms import AlarmWatch
from configs.schema import BlockConfig, Config, RewardConfig
from rl.advantage.combine import RewardTerm
from rl.measure.hacking import watched_of
from rl.measure.metrics import reward_metrics
from rl.types import Chain, Finish
from tests.reference.fake_run import PHOTOS, make_prompt, restore
from tests.reference.groups import make_group, make_scores

RESOLVED = """\
name: fooled
num_steps: {num}
prompts_per_step: 2
group_size: 4
alarm_window: {window}
rewards:
  contrast: {{weight: 1.0}}
  fidelity: {{weight: 0.0}}
"""
TERMS = {
    "contrast": RewardTerm(weight=1.0, blocks=("final_image",)),
    "fidelity": RewardTerm(weight=0.0, blocks=()),
}


def make_fooled_run(path, *, num_steps=24, window=20, gain=1.5):
    """Write a run whose pictures get ``gain`` levels of noise more a step; deterministic."""
    rng = np.random.default_rng(0)
    path.mkdir(parents=True)
    (path / "resolved.yaml").write_text(RESOLVED.format(num=num_steps, window=window))
    config = Config(
        rewards={"contrast": RewardConfig(), "fidelity": RewardConfig(weight=0.0)},
        chain={"final_image": BlockConfig(kind="image", policy="image")},
        alarm_window=window,
        group_size=4,
    )
    sink = JsonlSink(path / "metrics.jsonl")
    watch = AlarmWatch(config, watched_of(config, {}), sink, sink)
    recorder = ChainRecorder(path, final_block="final_image", weights={"contrast": 1.0, "fidelity": 0.0})
    prompts = [make_prompt(photo, "train/0", rng) for photo in PHOTOS][:2]
    for step in range(num_steps):
        pictures = [[paint(prompt, gain * step, rng) for _ in range(4)] for prompt in prompts]
        groups = [score(prompt, painted) for prompt, painted in zip(prompts, pictures, strict=True)]
        watch.log(step, reward_metrics(groups, config, TERMS))
        if step in {0, num_steps - 1}:
            for number, index in chains_to_record(groups, tuple(config.rewards)):
                values = {name: float(s.values[index]) for name, s in groups[number].scores.items()}
                chain = make_chain(groups[number].group_id, index)
                named = {"final_image": pictures[number][index]}
                recorder.record(step, "train", "train", chain, named, prompts[number], values)
    return path


def paint(prompt, noise, rng):
    picture = restore(prompt, 64, 0.6, rng).astype(np.float64)
    amount = noise * (1 + rng.normal(0, 0.1))
    return np.clip(picture + rng.normal(0, 1, picture.shape) * amount, 0, 255).astype(np.uint8)


def score(prompt, pictures):
    found = {
        "contrast": [local_contrast(picture) for picture in pictures],
        "fidelity": [fidelity(picture, prompt.pictures["truth"]) for picture in pictures],
    }
    assert all(LocalContrast.low <= value <= LocalContrast.high for value in found["contrast"])
    return make_group(
        f"{prompt.prompt_id}#0", {name: make_scores(name, values) for name, values in found.items()}
    )


def fidelity(picture, truth):
    """The share of 40 dB, as ``rewards.fidelity`` has it."""
    return min(peak_signal_noise_ratio(truth, picture, data_range=255), 40.0) / 40.0


def make_chain(group_id, index):
    return Chain(
        chain_id=f"{group_id}/{index}",
        group_id=group_id,
        index=index,
        finish=Finish.STOP,
        error="",
        text="<final_image><|image|></final_image>",
        segments=(),
        pictures={},
        versions={},
    )
