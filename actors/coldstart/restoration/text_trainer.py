"""Cold start of the text policy: the policy under a supervised loss, and the task that trains it.

Two losses. The language-model loss teaches the grammar and the words. It alone leaves the degradation words at
chance for as long as a laptop run lasts, because nothing tells the vision tower what to look for; so a linear
head on the degraded photo's mean picture token classifies the degradation slots and the words of the captions,
first alone and then beside the other. The head is dropped at export.

Letters: B rows, P patches, d values a patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actors.coldstart.restoration.text_data import NOT_AN_ACTION, batches, make_dataset
from actors.coldstart.supervised import Report, run_supervised
from actors.coldstart.task import ColdstartTask, asked, training_prompts
from actors.policies.token.policy import TokenPolicy
from actors.policies.token.qwen2_5_vl import build_text_policy
from actors.policies.token.tokenizer import load_tokenizer
from actors.policies.token.vocabulary import load_vocabulary
from configs.derive import degraded_px
from configs.schema import TokenPolicyConfig
from rl.chain.grammar import ChainGrammar
from rl.data.source import prompt_source
from rl.restoration.labels import VOCABULARY
from rl.seeding import derive_seed

WORDS_WEIGHT = 0.01
"""Weight of the head's words beside its slots: dozens of easy words drown five slots at 0.05 already."""
RARE = -4.0
"""Log-odds of a word before anything is learned. At 0 the hundreds of words that never occur would be all that
the optimizer hears of for hundreds of steps."""
HEAD_SHARE = 0.78
"""Share of the steps that teach the head alone, under a learning-rate schedule of their own: ten of them cost one
with chains, and words come fast once there is something to say."""
HEAD_WEIGHT = 1.0
"""Weight of the head's loss beside the language-model loss."""


def train_text(task: ColdstartTask) -> None:
    """Train the text policy to write true chains, and write it in the Hugging Face layout."""
    config, start = task.config, task.config.coldstart
    first = task.work / f"first-{task.rank}"
    prompts = training_prompts(config, 0, start.num_examples)
    build_text_policy(
        first,
        texts=[*prompt_source(config).training_texts(), *asked(prompts)],
        block_names=tuple(config.chain),
        degraded_px=degraded_px(config),
        seed=config.seed,
    )
    model = SupervisedTextModel(first)
    vocabulary = load_vocabulary(first, tuple(config.chain))
    dataset = make_dataset(
        prompts,
        grammar=ChainGrammar(config.chain, vocabulary.tags),
        vocabulary=vocabulary,
        tokenizer=model.tokenizer,
        policy=model.policy,
        seed=config.seed,
    )
    head_steps = int(HEAD_SHARE * start.text_steps)
    for name, first_step, num_steps in (
        ("head", 0, head_steps),
        ("chains", head_steps, start.text_steps - head_steps),
    ):
        spec = task.spec(num_steps=num_steps, learning_rate=start.text_learning_rate)
        run_supervised(
            replace(spec, checkpoint_dir=task.work / f"checkpoints-{name}"),
            module=model,
            batches=batches(
                dataset,
                batch_size=start.text_batch_size,
                seed=derive_seed(config.seed, name),
                rank=task.rank,
                world=task.world_size,
                head_batches=num_steps if name == "head" else 0,
            ),
            report=partial(report_later, task.report, first_step),
        )
    if task.rank == 0:
        model.export(task.directory)


def report_later(report: Report, first_step: int, step: int, metrics: Mapping[str, float]) -> None:
    """Report a step of a later part, counted from the start of the whole."""
    report(first_step + step, metrics)


class SupervisedTextModel(nn.Module):
    """A token policy and a head on what it sees, under the supervised loss.

    Args:
        directory: Checkpoint to start from, in the Hugging Face layout.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.tokenizer = load_tokenizer(directory)
        self.policy = TokenPolicy.load(directory, TokenPolicyConfig(), block_names=())
        config = self.policy.model.config
        text = config.get_text_config()
        self._num_slot_words = [len(words) for words in VOCABULARY]
        self.head = nn.Linear(int(text.hidden_size), sum(self._num_slot_words) + int(text.vocab_size))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        nn.init.constant_(self.head.bias[sum(self._num_slot_words) :], RARE)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the head's loss, and with chains in the batch the language-model loss with it.

        Args:
            batch: From ``batches``.

        Returns:
            Scalar, nats: mean over tokens plus mean over slots.
        """
        seen = self._look(batch["patches"], batch["grids"])
        # Normed like the language model norms its input: what the head finds there, that can find as well.
        pooled = F.rms_norm(seen[0], seen[0].shape[-1:]).mean(1)
        loss = HEAD_WEIGHT * self._head_loss(pooled, batch["slots"], batch["words"])
        if "targets" not in batch:
            return loss
        return loss + self._chain_loss(torch.cat(seen, dim=1), batch)

    def _look(self, patches: Tensor, grids: Tensor) -> list[Tensor]:
        """Turn patches ``[B, P, d]`` into picture tokens, ``[B, tokens, width]`` a picture.

        Gradient flows through the first, the degraded photo: the others show the same and cost twice as much.
        """
        first, *others = patches.split(grids.prod(1).tolist(), dim=1)
        seen = [self._see(first, grids[0])]
        with torch.no_grad():
            return seen + [self._see(part, grid) for part, grid in zip(others, grids[1:], strict=True)]

    def _see(self, patches: Tensor, grid: Tensor) -> Tensor:
        """Run the vision tower on one picture of every row."""
        rows = len(patches)
        output = self.policy.model.model.visual(patches.flatten(0, 1), grid_thw=grid.expand(rows, 3))
        tokens: Tensor = output.pooler_output
        return tokens.view(rows, -1, tokens.shape[-1])

    def _head_loss(self, pooled: Tensor, slots: Tensor, words: Tensor) -> Tensor:
        """Return the mean cross-entropy of the slots plus that of the words, which are independent."""
        scores = self.head(pooled)
        *by_slot, of_words = scores.split([*self._num_slot_words, words.shape[1]], dim=1)
        slot_losses = [F.cross_entropy(part, slots[:, index]) for index, part in enumerate(by_slot)]
        word_loss = F.binary_cross_entropy_with_logits(of_words, words, reduction="none").sum(1).mean()
        return torch.stack(slot_losses).mean() + WORDS_WEIGHT * word_loss

    def _chain_loss(self, seen: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the mean negative log-prob of the sampled tokens."""
        model = self.policy.model
        embedded = model.get_input_embeddings()(batch["input_ids"])
        is_picture = (batch["input_ids"] == model.config.image_token_id)[..., None]
        hidden = model.model.language_model(
            inputs_embeds=embedded.masked_scatter(is_picture, seen.to(embedded.dtype)),
            position_ids=batch["position_ids"],
            use_cache=False,
        ).last_hidden_state
        is_action = batch["targets"] != NOT_AN_ACTION
        return F.cross_entropy(model.lm_head(hidden[is_action]), batch["targets"][is_action])

    def export(self, directory: Path) -> None:
        """Write the policy with the present weights: model, processor and tokenizer, without the head."""
        self.policy.export(directory, {n: p.detach().clone() for n, p in self.policy.published()})
