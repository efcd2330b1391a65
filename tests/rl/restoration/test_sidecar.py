"""Which tags a crop keeps, what its captions say, and what a wrong sidecar costs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.errors import DataError
from rl.restoration import sidecar as sc
from rl.restoration.photos import builtin_photos


def make(*tags: sc.Tag) -> sc.Sidecar:
    return sc.Sidecar(scene="garage", tags=tags)


def kept(sidecar: sc.Sidecar, crop: sc.Box) -> tuple[str, ...]:
    return tuple(tag.name for tag in sc.crop_tags(sidecar, crop))


LEFT = sc.Tag(name="cat", detail="gray", boxes=((0.0, 0.0, 0.4, 1.0),))
SMALL = sc.Tag(name="ball", detail="red", boxes=((0.7, 0.6, 0.8, 0.7),))
SKY = sc.Tag(name="sky")


@pytest.mark.parametrize(
    ("crop", "want"),
    [
        ((0.0, 0.0, 1.0, 1.0), ("cat", "ball")),
        ((0.0, 0.0, 0.2, 1.0), ("cat",)),
        ((0.1, 0.1, 0.2, 0.2), ("cat",)),  # far less than half of the box, but the crop lies inside it
        ((0.35, 0.0, 0.45, 0.1), ("cat",)),  # half the crop lies inside
        ((0.75, 0.6, 0.95, 0.9), ("ball",)),  # half the box is visible
    ],
)
def test_box_rule(crop, want):
    assert kept(make(LEFT, SMALL), crop) == want


def test_tag_that_is_hardly_visible_is_kept_only_where_there_is_nothing_else():
    crop = (0.38, 0.0, 0.58, 0.2)
    assert kept(make(LEFT, SKY), crop) == ("sky",)
    assert kept(make(LEFT, SMALL), crop) == ("cat",)


def test_crop_without_any_tag_speaks_of_the_scene():
    sidecar, crop = make(SMALL), (0.0, 0.0, 0.1, 0.1)
    tags = sc.crop_tags(sidecar, crop)
    assert tags == ()
    assert sc.tag_names(sidecar, tags) == ("garage",)
    assert sc.captions(sidecar, tags, crop) == ("garage", "garage", "garage")


def test_any_of_several_boxes_keeps_a_tag():
    wheel = sc.Tag(name="wheel", boxes=((0.0, 0.0, 0.1, 0.1), (0.8, 0.8, 0.9, 0.9)))
    assert kept(make(wheel, LEFT), (0.7, 0.7, 1.0, 1.0)) == ("wheel",)
    assert sc.place(wheel, (0.6, 0.8, 0.92, 0.92)) == "right"


def test_captions_from_coarse_to_fine():
    crop = (0.0, 0.0, 1.0, 1.0)
    sidecar = make(LEFT, SMALL)
    assert sc.captions(sidecar, sc.crop_tags(sidecar, crop), crop) == (
        "garage: cat, ball",
        "garage: gray cat, red ball",
        "garage: gray cat left, red ball right",
    )


@pytest.mark.parametrize(
    ("box", "want"),
    [
        ((0.0, 0.4, 0.2, 0.6), "left"),
        ((0.8, 0.4, 1.0, 0.6), "right"),
        ((0.4, 0.0, 0.6, 0.2), "top"),
        ((0.4, 0.8, 0.6, 1.0), "bottom"),
        ((0.4, 0.4, 0.6, 0.6), "center"),
        ((0.0, 0.0, 1.0, 0.8), "everywhere"),
    ],
)
def test_place(box, want):
    assert sc.place(sc.Tag(name="x", boxes=(box,)), (0.0, 0.0, 1.0, 1.0)) == want


fractions = st.floats(0.0, 0.9)
crops = st.builds(lambda x, y, w, h: (x, y, min(1.0, x + w), min(1.0, y + h)), fractions, fractions,
                  st.floats(0.02, 1.0), st.floats(0.02, 1.0))  # fmt: skip
sidecars = st.sampled_from([photo.sidecar for photo in builtin_photos()])


@settings(deadline=None, max_examples=200)
@given(sidecar=sidecars, crop=crops)
def test_captions_are_short_known_and_name_every_tag(sidecar, crop):
    tags = sc.crop_tags(sidecar, crop)
    captions = sc.captions(sidecar, tags, crop)
    known = {
        word for text in sc.sidecar_texts(sidecar) for word in text.replace(",", "").replace(":", "").split()
    }
    for caption, most in zip(captions, (12, 16, 20), strict=True):
        words = caption.replace(",", "").replace(":", "").split()
        assert len(words) <= most
        assert set(words) <= known
        assert caption == caption.lower()
    names = sc.tag_names(sidecar, tags)
    assert names
    assert len(names) <= sc.MAX_TAGS
    assert all(name in captions[0] for name in names)
    assert all(tag.name in captions[1] and tag.name in captions[2] for tag in tags[: sc.MAX_DETAILED])


@settings(deadline=None)
@given(sidecar=sidecars)
def test_the_whole_photo_keeps_its_largest_tags(sidecar):
    assert len(sc.crop_tags(sidecar, (0.0, 0.0, 1.0, 1.0))) == min(sc.MAX_TAGS, len(sidecar.tags))


def test_built_in_tags_are_told_apart():
    for photo in builtin_photos():
        names = [photo.sidecar.scene] + [tag.name for tag in photo.sidecar.tags]
        assert 4 <= len(names) - 1 <= 8
        assert not [(a, b) for a in names for b in names if a != b and a in b]  # rewards look for substrings


def test_the_example_in_messages_is_valid():
    assert sc.parse_sidecar(json.loads(sc.EXAMPLE), name="x").tags[0].name == "motorcycle"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "JSON object"),
        ({"scene": "a"}, '"tags" must be a list'),
        ({"scene": "a", "tags": []}, '"tags" must be a list'),
        ({"scene": "a", "tags": [{"name": "b"}], "tgas": 1}, "unknown key 'tgas'"),
        ({"tags": [{"name": "b"}]}, "scene must be one or two"),
        ({"scene": "a b c", "tags": [{"name": "b"}]}, "scene must be one or two"),
        ({"scene": "a", "tags": ["b"]}, r"tags\[0\]: want a JSON object"),
        ({"scene": "a", "tags": [{"name": "B"}]}, "lower-case"),
        ({"scene": "a", "tags": [{"name": "b", "detail": 3}]}, "detail must be"),
        ({"scene": "a", "tags": [{"name": "b"}, {"name": "b"}]}, "same name"),
        ({"scene": "a", "tags": [{"name": "b", "boxes": 3}]}, "boxes must be a list"),
        ({"scene": "a", "tags": [{"name": "b", "boxes": [[0, 0, 1]]}]}, r"boxes\[0\] must be four"),
        ({"scene": "a", "tags": [{"name": "b", "boxes": [[0, 0, 20, 30]]}]}, "in 0..1"),
        ({"scene": "a", "tags": [{"name": "b", "boxes": [[0.5, 0, 0.5, 1]]}]}, "x0 < x1"),
        ({"scene": "a", "tags": [{"name": "b"}], "holdout_side": "up"}, "holdout_side"),
    ],
)
def test_wrong_sidecar_is_refused_with_its_place(content, message):
    with pytest.raises(DataError, match=message) as caught:
        sc.parse_sidecar(content, name="cat.json")
    assert str(caught.value).startswith("cat.json")


def test_missing_or_broken_file(tmp_path):
    picture, path = tmp_path / "cat.jpg", tmp_path / "cat.json"
    with pytest.raises(DataError) as caught:
        sc.load_sidecar(path, picture=picture)
    assert str(picture) in str(caught.value)
    assert f"to {path}, e.g. {sc.EXAMPLE}" in str(caught.value)
    path.write_text("{")
    with pytest.raises(DataError, match="not a JSON file"):
        sc.load_sidecar(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a JSON file"):
        sc.load_sidecar(path)
