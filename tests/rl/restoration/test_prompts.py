"""Photographs become prompts: same seed, same prompt; nothing trained on is evaluated on."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.load import load_config
from configs.schema import Photographs
from rl.data.images import save_picture
from rl.errors import ConfigError, DataError
from rl.restoration import photos as ph
from rl.restoration import prompts as pr
from rl.restoration.labels import VOCABULARY

MILD = Photographs(degradation="mild")


def source(
    data: Photographs = MILD, *, output_px: int = 64, scale: int = 4, seed: int = 3
) -> pr.PhotographSource:
    return pr.PhotographSource(data, output_px=output_px, scale=scale, seed=seed)


def noise(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def folder_of(root, *names: str, height: int = 200, width: int = 300):
    for i, name in enumerate(names):
        save_picture(root / f"{name}.png", noise(height, width, seed=i))
        tags = [{"name": "thing", "boxes": [[0, 0, 1, 1]]}]
        (root / f"{name}.json").write_text(json.dumps({"scene": "noise", "tags": tags}))
    return root


def same(one, two) -> bool:
    return (
        one.prompt_id == two.prompt_id
        and one.seed == two.seed
        and np.array_equal(one.pictures["degraded"], two.pictures["degraded"])
        and np.array_equal(one.pictures.get("truth"), two.pictures.get("truth"))
        and one.reference == two.reference
    )


def test_built_in_photographs():
    photos = ph.builtin_photos()
    assert [photo.name for photo in photos[:2]] == ["coffee", "chelsea"]
    assert len({photo.name for photo in photos}) == 8
    for photo in photos:
        assert photo.pixels.shape == (photo.height, photo.width, 3)
        assert not photo.pixels.flags.writeable


def test_prompt_is_the_same_in_any_order_and_any_source():
    one, two = source(), source()
    backwards = {i: one.train(i) for i in reversed(range(12))}
    assert all(same(two.train(i), backwards[i]) for i in range(12))
    assert not same(source(seed=4).train(0), backwards[0])
    assert len({prompt.seed for prompt in backwards.values()}) == 12


def test_train_prompt_has_everything():
    made = source()
    for i in range(40):
        prompt = made.train(i)
        labels, tags, captions = (prompt.reference[name] for name in ("labels", "tags", "captions"))
        assert prompt.prompt_id.endswith(f"/train/{i}")
        assert prompt.pictures["degraded"].shape == (16, 16, 3)
        assert prompt.pictures["truth"].shape == (64, 64, 3)
        assert all(word in known for word, known in zip(labels, VOCABULARY, strict=True))
        assert tags
        assert len(captions) == 3
        assert all(tag in captions[0] for tag in tags)


def test_every_trained_photograph_and_tag_is_met():
    made = source()
    prompts = [made.train(i) for i in range(600)]
    names = {prompt.prompt_id.split("/")[0] for prompt in prompts}
    assert names == {photo.name for photo in ph.builtin_photos()[2:]}
    known = {tag.name for photo in ph.builtin_photos()[2:] for tag in photo.sidecar.tags}
    met = {tag for prompt in prompts for tag in prompt.reference["tags"]}
    assert met - known == {"garage"}  # the scene, where no tag is visible
    assert known - met == {"flag"}  # lies in the held-out strip


def test_held_out_prompts_are_fixed_half_and_half_and_grow():
    prompts = source().held_out(14)
    assert all(same(a, b) for a, b in zip(prompts, source().held_out(14), strict=True))
    assert all(same(a, b) for a, b in zip(prompts, source().held_out(5), strict=False))
    parts = [prompt.prompt_id.split("/") for prompt in prompts]
    assert {name for name, kind, _ in parts if kind == "photo"} == {"coffee", "chelsea"}
    assert len({name for name, kind, _ in parts if kind == "crop"}) == 6
    assert [kind for _, kind, _ in parts] == ["crop", "photo"] * 7
    assert len({prompt.prompt_id for prompt in prompts}) == 14


@settings(deadline=None, max_examples=100)
@given(photo=st.sampled_from(ph.builtin_photos()), frac=st.floats(0.2, 0.45), seed=st.integers(0, 1000),
       side=st.sampled_from(["", "right", "left", "top", "bottom"]))  # fmt: skip
def test_training_and_held_out_crops_share_no_pixel(photo, frac, seed, side):
    photo = dataclasses.replace(photo, sidecar=dataclasses.replace(photo.sidecar, holdout_side=side))
    train, strip = pr.split(photo, frac)
    rng = np.random.default_rng(seed)
    count = np.zeros((photo.height, photo.width), np.uint8)
    count[train.top : train.bottom, train.left : train.right] += 1
    count[strip.top : strip.bottom, strip.left : strip.right] += 1
    assert np.all(count == 1)
    share = strip.height * strip.width / count.size
    assert share == pytest.approx(frac, abs=0.01)
    for region, other in ((train, strip), (strip, train)):
        if min(region.height, region.width) < 64:
            continue
        rect = pr.crop_rect(region, output_px=64, zoom=[1.0, 3.0], rng=rng)
        assert rect.height == rect.width
        assert 64 <= rect.height <= 192
        assert 0 <= rect.top < rect.bottom <= photo.height
        assert 0 <= rect.left < rect.right <= photo.width
        assert max(rect.top, other.top) >= min(rect.bottom, other.bottom) or (
            max(rect.left, other.left) >= min(rect.right, other.right)
        )


def test_pixels_of_prompts_come_from_their_own_region(tmp_path):
    """The held-out strip is painted red, so any leak would show."""
    for name in ("a", "b"):
        pixels = np.full((100, 200, 3), (0, 0, 255), np.uint8)
        pixels[:, 120:] = (255, 0, 0)
        save_picture(tmp_path / f"{name}.png", pixels)
        (tmp_path / f"{name}.json").write_text('{"scene": "paint", "tags": [{"name": "color"}]}')
    data = Photographs(images=str(tmp_path), degradation="mild", holdout_photos=0, holdout_frac=0.4)
    made = source(data, output_px=32)
    assert all(np.all(made.train(i).pictures.get("truth") == (0, 0, 255)) for i in range(50))
    held = made.held_out(20)
    assert all(np.all(prompt.pictures.get("truth") == (255, 0, 0)) for prompt in held)
    assert {prompt.prompt_id.split("/")[1] for prompt in held} == {"crop"}


def test_training_texts_hold_every_word_that_occurs():
    made = source()
    words = {
        word for text in made.training_texts() for word in text.replace(",", "").replace(":", "").split()
    }
    for prompt in [made.train(i) for i in range(50)] + made.held_out(20):
        for caption in prompt.reference["captions"]:
            assert set(caption.replace(",", "").replace(":", "").split()) <= words


def test_folder_of_photographs(tmp_path):
    folder_of(tmp_path, "x", "sub/y", "z")
    names = [photo.name for photo in ph.folder_photos(tmp_path)]
    assert sorted(names) == ["sub/y", "x", "z"]
    made = source(Photographs(images=str(tmp_path), holdout_photos=1))
    assert made.held_out(2)[1].prompt_id.startswith(names[0])
    assert made.train(0).prompt_id.split("/train/")[0] in names[1:]


def test_photograph_without_sidecar_says_what_to_write_where(tmp_path):
    folder_of(tmp_path, "x")
    save_picture(tmp_path / "new.jpg", noise(90, 90))
    with pytest.raises(DataError) as caught:
        source(Photographs(images=str(tmp_path)))
    assert f"{tmp_path / 'new.jpg'}: has no sidecar; write what it shows to {tmp_path / 'new.json'}" in str(
        caught.value
    )


def test_two_photographs_of_one_name(tmp_path):
    folder_of(tmp_path, "x")
    save_picture(tmp_path / "x.jpg", noise(90, 90))
    with pytest.raises(DataError, match="same name"):
        ph.folder_photos(tmp_path)


@pytest.mark.parametrize(
    ("change", "sizes", "message"),
    [
        ({"holdout_photos": 8}, {}, r"leaves none of 8 photographs"),
        ({"images": "/nowhere"}, {}, r"data\.images"),
        ({}, {"output_px": 0}, "photographs are for chains that paint"),
        ({}, {"output_px": 160}, r"held-out strip is .* px, crops need 160; change data\.holdout_frac"),
        ({"holdout_frac": 0.0}, {"output_px": 512}, "crops need 512"),
        ({"holdout_frac": 0.0, "holdout_photos": 0}, {"output_px": 512}, "part to train on"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(change, sizes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        source(dataclasses.replace(MILD, **change), **sizes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.holdout_frac=1.0", r"data\.holdout_frac: .*at most 0\.9, got 1\.0"),
        ("data.holdout_photos=-1", r"data\.holdout_photos: .*at least 0, got -1"),
        ("data.degradation=hard", r"data\.degradation: want one of .*mild, got 'hard'"),
    ],
)
def test_values_that_cannot_be_are_refused_by_the_schema(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config("tiny", [override])


def test_nothing_held_out(tmp_path):
    made = source(dataclasses.replace(MILD, holdout_frac=0.0, holdout_photos=0))
    assert made.train(0).pictures["degraded"].shape == (16, 16, 3)
    with pytest.raises(DataError, match=r"raise data\.holdout_frac"):
        made.held_out(2)
    only_photos = source(dataclasses.replace(MILD, holdout_frac=0.0)).held_out(4)
    assert {prompt.prompt_id.split("/")[1] for prompt in only_photos} == {"photo"}


# ---------------------------------------------------------------------------------- pairs


def pairs_in(root, *, scale: int = 4, high: bool = True, low_folder: str = "LR"):
    for i, name in enumerate(("a", "sub/b")):
        truth = noise(40 * scale, 30 * scale, seed=i)
        if high:
            save_picture(root / "HR" / f"{name}.png", truth)
        save_picture(root / low_folder / f"{name}.png", truth[::scale, ::scale])
    return root


def test_pairs_replace_held_out_prompts_and_fit_exactly(tmp_path):
    made = source(dataclasses.replace(MILD, pairs=str(pairs_in(tmp_path))))
    prompts = made.held_out(5)
    assert [prompt.prompt_id for prompt in prompts][:3] == ["a/pair/0", "sub/b/pair/1", "a/pair/2"]
    for prompt in prompts:
        assert np.array_equal(prompt.pictures.get("truth")[::4, ::4], prompt.pictures["degraded"])
    assert "/train/" in made.train(0).prompt_id


@pytest.mark.parametrize("low_folder", ["LR", "."])
def test_low_resolution_only(tmp_path, low_folder):
    pairs_in(tmp_path, high=False, low_folder=low_folder)
    prompts = source(dataclasses.replace(MILD, pairs=str(tmp_path))).held_out(2)
    assert all(prompt.pictures.get("truth") is None for prompt in prompts)
    assert prompts[0].pictures["degraded"].shape == (16, 16, 3)


def test_pairs_that_do_not_fit(tmp_path):
    pairs_in(tmp_path / "half", scale=2)
    with pytest.raises(DataError, match=r"a\.png: is 60x80 but 4 x its LR twin is 120x160"):
        ph.pair_photos(tmp_path / "half", scale=4)
    (pairs_in(tmp_path / "lone") / "HR" / "a.png").unlink()
    with pytest.raises(DataError, match="'a' is missing in HR"):
        ph.pair_photos(tmp_path / "lone", scale=4)
    save_picture(tmp_path / "high" / "HR" / "a.png", noise(8, 8))
    with pytest.raises(DataError, match="has HR but no LR"):
        ph.pair_photos(tmp_path / "high", scale=4)
    with pytest.raises(DataError, match=r"data\.pairs"):
        ph.pair_photos(tmp_path / "nowhere", scale=4)
    pairs_in(tmp_path / "small")
    with pytest.raises(DataError, match="the degraded photo needs 32"):
        source(dataclasses.replace(MILD, pairs=str(tmp_path / "small"), holdout_frac=0.0), output_px=128)
