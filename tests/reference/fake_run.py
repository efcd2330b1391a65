"""A run directory as a small training leaves it: real photographs, invented progress."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from cluster.record.recorder import ChainRecorder
from cluster.record.sinks import JsonlSink
from rl.measure.statistics import summarise_eval
from rl.restoration.names import restoration_prompt
from rl.types import Chain, Finish, Prompt

PHOTOS = {
    "coffee": (data.coffee, (60, 160), ("cup", "coffee", "spoon", "table")),
    "chelsea": (data.chelsea, (40, 110), ("cat", "eyes", "fur", "whiskers")),
    "astronaut": (data.astronaut, (10, 130), ("woman", "space suit", "flag", "smile")),
    "rocket": (data.rocket, (120, 250), ("rocket", "tower", "sky", "smoke")),
}
SLOTS = (
    ("light blur", "medium blur", "heavy blur"),
    ("downsample", "upsample", "keep"),
    ("light noise", "medium noise", "heavy noise"),
    ("light compression", "medium compression", "heavy compression"),
    ("upsample", "downsample", "keep"),
)
REWARDS = ("format", "degradation", "understanding", "generation")
CONFIG = """\
name: {name}
num_steps: {num_steps}
prompts_per_step: 4
group_size: 8
policies:
  text: {{kind: token, canary_tolerance_nats: 0.0001}}
  image: {{kind: denoising, canary_tolerance_nats: 0.0001}}
rewards:
  format: {{weight: 1.0}}
  degradation: {{weight: 1.0}}
  understanding: {{weight: 1.0}}
  generation: {{weight: 1.0}}
  sharpness: {{weight: 0.0}}
"""


def make_run(path: Path, *, num_steps: int = 30, done: int = 30, evaluated: bool = True) -> Path:
    """Write a run of ``done`` of ``num_steps`` steps; nothing in it is random between calls."""
    rng = np.random.default_rng(0)
    path.mkdir(parents=True)
    (path / "resolved.yaml").write_text(CONFIG.format(name=path.name, num_steps=num_steps))
    sink, recorder = (
        JsonlSink(path / "metrics.jsonl"),
        ChainRecorder(path, final_block="final_image", max_chains_per_step=8),
    )
    for step in range(done):
        skill = step / num_steps
        sink.log(step, metrics_of(skill, rng) | {"wall_time_s": 12.3 * (step + 1)})
        if step in {0, done // 2, done - 1}:
            prompt = make_prompt(list(PHOTOS)[step % 4], f"train/{step}", rng)
            for index in range(8):
                write(recorder, step, "train", "train", prompt, index, skill + rng.normal(0, 0.2), rng)
    if evaluated:
        evaluate(path, recorder, done, rng)
    return path


def evaluate(path, recorder, step, rng):
    prompts = [make_prompt(photo, f"eval/{i}", rng) for i in range(2) for photo in PHOTOS]
    values = {row: {} for row in ("bicubic", "start", "now")}
    for row, skill in (("bicubic", 0.25), ("start", 0.2), ("now", 0.75)):
        for metric, low, gain in (
            ("psnr", 21.0, 3.0),
            ("ssim", 0.55, 0.2),
            ("gmsd", 0.2, -0.07),
            ("vsi", 0.9, 0.04),
        ):
            base = rng.normal(0, 0.02, 1)
            values[row][metric] = [low + gain * (skill + x) for x in base + rng.normal(0, 0.08, len(prompts))]
        if row != "bicubic":
            written = [write(recorder, step, "eval", row, prompt, 0, skill, rng) for prompt in prompts]
            for reward in (*REWARDS, "total"):
                values[row][reward] = [scores[reward] for scores in written]
    summary = summarise_eval([prompt.prompt_id for prompt in prompts], values)
    (path / "eval.json").write_text(json.dumps(summary))


def make_prompt(photo: str, name: str, rng) -> Prompt:
    load, (top, left), tags = PHOTOS[photo]
    top, left = top + int(rng.integers(0, 40)), left + int(rng.integers(0, 40))
    crop = Image.fromarray(load()[top : top + 200, left : left + 200, :3])
    truth = crop.resize((64, 64), Image.Resampling.LANCZOS)
    small = np.asarray(truth.resize((16, 16), Image.Resampling.BILINEAR), dtype=np.float64)
    degraded = np.clip(small + rng.normal(0, 7, small.shape), 0, 255).astype(np.uint8)
    labels = tuple(str(rng.choice(words)) for words in SLOTS)
    return restoration_prompt(f"{photo}/{name}", degraded, np.asarray(truth), labels=labels, tags=tags)


def write(recorder, step, kind, model, prompt, index, skill, rng):
    """Invent a chain of a model of some skill (0 .. 1), record it and return its scores."""
    skill = float(np.clip(skill, 0.02, 0.98))
    is_whole = rng.random() < 0.75 + skill / 4
    slots = [
        label if rng.random() < 0.3 + 0.6 * skill else str(rng.choice(words))
        for label, words in zip(prompt.reference["labels"], SLOTS, strict=True)
    ]
    named = [tag for tag in prompt.reference["tags"] if rng.random() < 0.3 + 0.6 * skill]
    text = f"<degradation>{', '.join(slots)}</degradation>"
    text += f"<rough_understand>a photo of {' and '.join(named) or 'something'}</rough_understand>"
    text += "<rough_image><|image|></rough_image><middle_understand>soft shapes, "
    pictures = {"rough_image": restore(prompt, 16, skill, rng)}
    if is_whole:
        text += f"the {(named or ['middle'])[0]} is clearer</middle_understand><middle_image><|image|></middle_image>"
        text += "<final_understand>fine edges and <b> & texture</final_understand><final_image><|image|></final_image>"
        pictures |= {
            "middle_image": restore(prompt, 32, skill, rng),
            "final_image": restore(prompt, 64, skill, rng),
        }
    scores = {
        "format": float(is_whole),
        "degradation": sum(a == b for a, b in zip(slots, prompt.reference["labels"], strict=True)) / 5,
        "understanding": len(named) / 4,
        "generation": 0.4 + 0.3 * skill + float(rng.normal(0, 0.01)) if is_whole else 0.0,
    }
    group_id = f"{prompt.prompt_id}#0"
    chain = Chain(
        chain_id=f"{group_id}/{index}",
        group_id=group_id,
        index=index,
        text=text,
        segments=(),
        pictures={},
        finish=Finish.STOP if is_whole else Finish.LENGTH,
        versions={"text": (step, step)},
        error="" if is_whole else "middle_understand: 24 tokens and no closing tag",
    )
    recorder.record(step, kind, model, chain, pictures, prompt, scores)
    return scores | {"total": sum(scores.values())}


def restore(prompt, edge, skill, rng):
    truth = Image.fromarray(prompt.pictures["truth"]).resize((edge, edge), Image.Resampling.LANCZOS)
    blurred = Image.fromarray(prompt.pictures["degraded"]).resize((edge, edge), Image.Resampling.BICUBIC)
    mixed = skill * np.asarray(truth, dtype=np.float64) + (1 - skill) * np.asarray(blurred)
    return np.clip(mixed + rng.normal(0, 10 * (1 - skill), mixed.shape), 0, 255).astype(np.uint8)


def metrics_of(skill, rng):
    means = {
        "format": 0.75 + skill / 4,
        "degradation": 0.4 + 0.4 * skill,
        "understanding": 0.45 + 0.35 * skill,
        "generation": 0.43 + 0.08 * skill,
        "sharpness": 11 - skill,
    }
    rewards = {name: value + float(rng.normal(0, 0.03)) for name, value in means.items()}
    metrics = {f"reward/{name}/mean": value for name, value in rewards.items()}
    metrics["reward/total/mean"] = sum(rewards[name] for name in REWARDS)
    for policy, scale in (("text", 1.0), ("image", 0.2)):
        metrics |= {
            f"policy/{policy}/ratio_before_update/max_dev": 10 ** float(rng.normal(-6, 0.2)),
            f"weights/{policy}/canary_nats/max": 10 ** float(rng.normal(-5.8, 0.15)),
            f"policy/{policy}/clip_frac_low": abs(float(rng.normal(0.02, 0.01))),
            f"policy/{policy}/clip_frac_high": abs(float(rng.normal(0.03, 0.01))),
            f"policy/{policy}/behaviour_kl_nats/mean": abs(float(rng.normal(1e-4, 3e-5))),
            f"learner/{policy}/grad_norm": scale * 10 ** float(rng.normal(0, 0.15)),
        }
    metrics["policy/text/entropy_nats/mean"] = 1.1 - 0.5 * skill + float(rng.normal(0, 0.03))
    times = {
        "rollout": rng.normal(6, 0.5),
        "reward": rng.normal(0.7, 0.1),
        "update": rng.normal(4.2, 0.3),
        "publish": rng.normal(0.9, 0.05),
    }
    metrics |= {f"time/{stage}_s": float(value) for stage, value in times.items()}
    metrics["time/step_s"] = float(sum(times.values())) + 0.3
    return metrics
