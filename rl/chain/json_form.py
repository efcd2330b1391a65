"""JSON form of a finished chain: for the wire, recorded chains and failure records."""

from __future__ import annotations

from typing import Any

from rl.types import FinishedChain, JsonDict, Message, PicturePart, Prompt


def chain_to_json(chain: FinishedChain[Any]) -> JsonDict:
    """Turn a chain into JSON types; what stands for its pictures is one already (an index, a file's name)."""
    return {
        "chain_id": chain.chain_id,
        "group_id": chain.group_id,
        "prompt": prompt_to_json(chain.prompt),
        "finish": chain.finish.value,
        "text": chain.text,
        "block_text": dict(chain.block_text),
        "pictures": dict(chain.pictures),
        "final_block": chain.final_block,
        "completion_ids": None if chain.completion_ids is None else list(chain.completion_ids),
    }


def prompt_to_json(prompt: Prompt[Any]) -> JsonDict:
    """Turn a prompt into JSON types; see ``chain_to_json``."""
    return {
        "prompt_id": prompt.prompt_id,
        "messages": [message_to_json(message) for message in prompt.messages],
        "tokens": list(prompt.tokens),
        "pictures": dict(prompt.pictures),
        "shown": list(prompt.shown),
        "reference": dict(prompt.reference),
    }


def message_to_json(message: Message) -> JsonDict:
    """Turn a message into JSON types, as chat templates have them: a role, and a content of typed parts."""
    content = [
        {"type": "image", "name": part.name}
        if isinstance(part, PicturePart)
        else {"type": "text", "text": part.text}
        for part in message.parts
    ]
    return {"role": message.role, "content": content}
