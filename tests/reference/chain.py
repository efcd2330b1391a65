"""The chain's grammar once more, as a regular expression over one character a token."""

import re

from configs.schema import BlockConfig
from rl.chain.grammar import TagVocabulary

PAD, END, VISION_START, PLACEHOLDER, VISION_END = range(5)
SPACES = (50, 51)
WORDS = tuple(range(60, 66))
FIRST_TAG = 10


def vocabulary(names: list[str]) -> TagVocabulary:
    return TagVocabulary(
        opening={name: FIRST_TAG + 2 * i for i, name in enumerate(names)},
        closing={name: FIRST_TAG + 2 * i + 1 for i, name in enumerate(names)},
        picture=(VISION_START, PLACEHOLDER, VISION_END),
        placeholder=PLACEHOLDER,
        whitespace=frozenset(SPACES),
        end=frozenset({PAD, END}),
    )


def chain_blocks(kinds: list[str], *, max_tokens: int = 1000) -> dict[str, BlockConfig]:
    return {
        f"b{i}": BlockConfig(kind="text", policy="writer", max_tokens=max_tokens)
        if kind == "text"
        else BlockConfig(kind="image", policy="painter", size_px=16, num_steps=4)
        for i, kind in enumerate(kinds)
    }


def char(token: int) -> str:
    return chr(0x4E00 + token)


def legal_prefix(sampled: list[int], blocks: dict[str, BlockConfig]) -> tuple[int, bool]:
    """How many of a chain's sampled tokens are in grammar, and whether they are all it wants."""
    tags = vocabulary(list(blocks))
    plain = "".join(char(t) for t in (*SPACES, *WORDS))
    spaces = "".join(map(char, SPACES))
    atoms: list[str] = []
    before = ""
    for name, block in blocks.items():
        if block.kind == "text":
            atoms += [f"[{spaces}]*"] if before else []
            atoms += [char(tags.opening[name]), f"[{plain}]*", char(tags.closing[name])]
        elif before == "text":
            atoms += [f"[{spaces}]*", char(tags.opening[name])]
        before = block.kind
    partial = ""
    for atom in reversed(atoms):
        partial = f"(?:{atom}{partial})?"
    text = "".join(map(char, sampled))
    found = re.match(partial, text)
    assert found is not None
    return found.end(), re.fullmatch("".join(atoms), found.group()) is not None


def decode(tokens: list[int], names: list[str]) -> str:
    tags = vocabulary(names)
    words = {tags.opening[n]: f"<{n}>" for n in names} | {tags.closing[n]: f"</{n}>" for n in names}
    words |= {SPACES[0]: " ", SPACES[1]: "\n"} | {word: f"w{word} " for word in WORDS}
    return "".join(words.get(token, "?") for token in tokens)
