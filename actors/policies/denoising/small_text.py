"""Tokenizer and text encoder of small painters made from nothing: a word is a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def make_tokenizer(texts: Sequence[str], *, max_length: int) -> Any:
    """Make a lower-case word tokenizer that ends every text with ``</s>``.

    Args:
        texts: With all the words it is to know.
        max_length: Longest text, tokens.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["<pad>", "</s>", "<unk>"]
    backend.train_from_iterator(texts, trainers.WordLevelTrainer(vocab_size=4096, special_tokens=special))
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=special[0],
        eos_token=special[1],
        unk_token=special[2],
        model_max_length=max_length,
    )


def make_text_encoder(vocab_size: int, *, width: int) -> Any:
    """Make a one-layer T5 encoder."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=vocab_size,
        d_model=width,
        d_kv=16,
        d_ff=2 * width,
        num_layers=1,
        num_heads=2,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        is_encoder_decoder=False,
    )
    return T5EncoderModel(config)
