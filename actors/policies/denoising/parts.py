"""The small random parts of a picture policy made from nothing. All are stock classes of diffusers and transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from actors.policies.denoising.image_model import NUM_FLAG_CHANNELS


def make_net(channels: Sequence[int], *, patch: int, text_width: int) -> nn.Module:
    """Make a net over patches whose last layer is zero; text enters at its coarsest resolution."""
    from diffusers import UNet2DConditionModel

    area = patch * patch
    net: nn.Module = UNet2DConditionModel(
        in_channels=9 * area + NUM_FLAG_CHANNELS,
        out_channels=3 * area,
        down_block_types=("DownBlock2D",) * len(channels),
        up_block_types=("UpBlock2D",) * len(channels),
        block_out_channels=tuple(channels),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=text_width,
        attention_head_dim=4,
    )
    nn.init.zeros_(net.get_parameter("conv_out.weight"))
    nn.init.zeros_(net.get_parameter("conv_out.bias"))
    return net


def make_tokenizer(texts: Sequence[str]) -> Any:
    """Make a lower-case word tokenizer that ends every text with ``</s>``."""
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
        model_max_length=96,
    )


def make_text_encoder(vocab_size: int) -> Any:
    """Make a one-layer encoder of width 32."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=vocab_size,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=1,
        num_heads=2,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        is_encoder_decoder=False,
    )
    return T5EncoderModel(config)
