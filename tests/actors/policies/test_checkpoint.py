"""Checkpoints of language models: which are taken, what their logits are, and how their contexts are written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from actors.policies.token.checkpoint import (
    OutputHead,
    checkpoint_names,
    load_model,
    local_directory,
    served_architectures,
)
from actors.policies.token.policy import TokenPolicy
from actors.policies.token.vocabulary import load_vocabulary
from rl.compat.torchvision import ensure_torchvision
from rl.errors import ConfigError, DataError
from rl.types import Message, PicturePart, TextPart
from tests.reference.language_models import TEXT, make, save, tokenizer
from tests.reference.policy_configs import policy_config

CONFIG = policy_config(kind="token")
USER = Message(role="user", parts=(TextPart("a cat "), TextPart("on a red chair")))


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen3")
    make("qwen3", path)
    return path


@pytest.fixture(scope="module")
def qwen3_vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen3_vl")
    make("qwen3_vl", path)
    return path


# ------------------------------------------------------------------ models


def test_what_vllm_serves_is_read_off_its_source() -> None:
    served = served_architectures()
    assert {
        "Qwen3ForCausalLM",
        "LlamaForCausalLM",
        "Qwen2_5_VLForConditionalGeneration",
        "Gemma3ForCausalLM",
    } <= served
    assert "BertModel" not in served


@pytest.mark.parametrize("name", ["gemma2", "granite", "cohere"])
def test_logits_that_are_scaled_or_capped_are_the_models_own(name: str, tmp_path: Path) -> None:
    ensure_torchvision()
    from transformers import AutoConfig, AutoModelForCausalLM

    made = tokenizer()
    changes = {
        "gemma2": {"final_logit_softcapping": 0.5},
        "granite": {"logits_scaling": 4.0},
        "cohere": {"logit_scale": 3.0},
    }
    config = AutoConfig.for_model(name, **TEXT, vocab_size=len(made), **changes[name])
    save(AutoModelForCausalLM.from_config(config), tmp_path, made)
    policy = TokenPolicy.load(tmp_path, CONFIG, block_names=("answer",))
    ids = {"input_ids": torch.tensor([[1, 2, 3, 4]])}
    with torch.no_grad():
        wanted = policy.model(**ids).logits
        plain = policy.model.get_output_embeddings()(policy.model.base_model(**ids).last_hidden_state)
    torch.testing.assert_close(
        policy._head(policy.hidden_states({"model.input_ids": ids["input_ids"]})), wanted
    )
    assert (plain - wanted).abs().max() > 0.01


def test_logits_that_are_made_in_another_way_are_refused(qwen3: Path) -> None:
    model = load_model(qwen3, "float32")
    model.register_forward_hook(lambda module, args, output: replace(output, logits=2 * output.logits))
    with pytest.raises(ConfigError, match="Qwen3ForCausalLM: its logits are more than its output matrix"):
        OutputHead(model).prove(model, {"input_ids": torch.tensor([[1, 2, 3]])})


def test_weights_that_the_file_holds_in_other_pieces_are_refused(tmp_path: Path) -> None:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    made = tokenizer()
    config = Qwen3MoeConfig(
        **TEXT, vocab_size=len(made), num_experts=2, num_experts_per_tok=1, moe_intermediate_size=32
    )
    save(Qwen3MoeForCausalLM(config), tmp_path, made)
    with pytest.raises(
        ConfigError, match=r"Qwen3MoeForCausalLM: its checkpoint holds .*experts.* in other pieces"
    ):
        checkpoint_names(load_model(tmp_path, "float32"))


def test_a_source_that_is_nowhere_costs_one_line() -> None:
    with pytest.raises(
        ConfigError, match="nobody/nothing: no such folder, and it cannot be had from the hub"
    ) as caught:
        local_directory(Path("nobody/nothing"))
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------ vocabularies


def test_messages_go_through_the_chat_template(qwen3: Path) -> None:
    from transformers import AutoTokenizer

    vocabulary = load_vocabulary(qwen3, ("answer",))
    made = AutoTokenizer.from_pretrained(qwen3)
    turns = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "a cat on a red chair"}]
    wanted = made.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    system = Message(role="system", parts=(TextPart("be kind"),))
    assert vocabulary.encode((system, USER)) == tuple(made.encode(wanted, add_special_tokens=False))
    assert wanted.endswith("<|im_start|>assistant\n")


def test_options_reach_the_chat_template(tmp_path: Path) -> None:
    make("qwen3", tmp_path)
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(tmp_path)
    made.chat_template = (
        "{% if enable_thinking is defined and not enable_thinking %}light{% else %}heavy{% endif %}"
    )
    made.save_pretrained(tmp_path)
    texts = [
        v.decode(v.encode((USER,)))
        for v in (
            load_vocabulary(tmp_path, ("a",)),
            load_vocabulary(tmp_path, ("a",), {"enable_thinking": False}),
        )
    ]
    assert texts == ["heavy", "light"]


def test_a_template_that_refuses_and_a_picture_that_is_not_read_cost_one_line(
    tmp_path: Path, qwen3: Path
) -> None:
    with pytest.raises(DataError, match="shows a picture, and the text policy's model reads none"):
        load_vocabulary(qwen3, ("a",)).encode((Message(role="user", parts=(PicturePart("a"),)),))
    make("qwen3", tmp_path)
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(tmp_path)
    made.chat_template = "{{ raise_exception('no system role') }}"
    made.save_pretrained(tmp_path)
    with pytest.raises(DataError, match="chat template refuses the prompt's messages: no system role"):
        load_vocabulary(tmp_path, ("a",)).encode((USER,))


def test_a_single_block_ends_with_every_end_the_model_names_and_forbids_few(
    qwen3: Path, qwen3_vl: Path
) -> None:
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(qwen3)
    vocabulary = load_vocabulary(qwen3, ("answer",))
    assert vocabulary.tags.end == {made.eos_token_id, made.pad_token_id}
    assert not vocabulary.tags.opening
    assert set(vocabulary.forbidden_ids) == set(range(len(made), -(-len(made) // 16) * 16))
    seeing = load_vocabulary(qwen3_vl, ("answer",))
    names = AutoTokenizer.from_pretrained(qwen3_vl).convert_ids_to_tokens(seeing.forbidden_ids)
    assert {"<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"} <= set(names)
    assert "<|im_start|>" not in names


def test_several_blocks_want_tags_in_the_tokenizer(qwen3: Path) -> None:
    with pytest.raises(ConfigError, match="no token <look>"):
        load_vocabulary(qwen3, ("look", "say"))
