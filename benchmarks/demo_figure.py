"""Held-out photographs of a run as one picture: degraded | before | now | truth, a row each.

python benchmarks/demo_figure.py runs/demo docs/figures/demo.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

COLUMNS = (("start", "degraded"), ("start", "final_image"), ("now", "final_image"), ("now", "truth"))
"""Which evaluation, and which of its pictures."""
ROWS, EDGE, GAP = 4, 128, 6


def main() -> None:
    """Tile the pictures of some held-out prompts that were finished before and after, from all of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    found = finished(arguments.run)
    rows = found[:: max(1, len(found) // ROWS)][:ROWS]
    size = (len(COLUMNS) * (EDGE + GAP) - GAP, len(rows) * (EDGE + GAP) - GAP)
    sheet = Image.new("RGB", size, "white")
    for row, folders in enumerate(rows):
        for column, (model, name) in enumerate(COLUMNS):
            tile = (
                Image.open(folders[model] / f"{name}.png")
                .convert("RGB")
                .resize((EDGE, EDGE), Image.Resampling.NEAREST)
            )
            sheet.paste(tile, (column * (EDGE + GAP), row * (EDGE + GAP)))
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(arguments.picture, optimize=True)


def finished(run: Path) -> list[dict[str, Path]]:
    """Return the folders of each prompt by evaluation, for prompts whose pictures are all there; in order of name."""
    found: dict[str, dict[str, Path]] = {}
    for folder in sorted((run / "chains").glob("*/eval-*__*")):
        model, _, prompt = folder.name.removeprefix("eval-").partition("__")
        found.setdefault(prompt, {})[model] = folder
    return [
        folders
        for folders in found.values()
        if all(model in folders and (folders[model] / f"{name}.png").is_file() for model, name in COLUMNS)
    ]


if __name__ == "__main__":
    main()
