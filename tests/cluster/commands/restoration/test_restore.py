"""``vlcot restore``: no photograph, sidecar or foreign file is ever written over; each result has its own name."""

import json
from pathlib import Path

import pytest
from PIL import Image

from cluster.commands.restoration.restore import find_photos, refuse_to_replace, restore
from configs.load import load_config
from rl.errors import ConfigError


def write(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 50)).save(path)


@pytest.fixture
def photos(tmp_path):
    write(tmp_path / "photos" / "a.png", tmp_path / "photos" / "trip" / "a.jpg")
    (tmp_path / "photos" / "a.json").write_text('{"scene": "street", "tags": [{"name": "car"}]}')
    return tmp_path / "photos"


@pytest.mark.parametrize("name", ["a.png", "trip/a.jpg"])
def test_results_never_replace_a_photograph_or_its_sidecar(photos, name):
    for given, out in ((photos, photos), (photos / name, (photos / name).parent)):
        with pytest.raises(ConfigError, match=r"a\.(png|json) belongs to a photograph and would be replaced"):
            restore(load_config("tiny"), [given], out)


def test_a_link_to_the_photographs_is_the_photographs(photos, tmp_path):
    (tmp_path / "link").symlink_to(photos)
    with pytest.raises(ConfigError, match="belongs to a photograph"):
        restore(load_config("tiny"), [photos], tmp_path / "link")


def test_results_keep_subfolders_and_are_not_restored_again(photos):
    out = photos / "restored"
    write(out / "a.png")
    assert find_photos([photos], out) == {"a": photos / "a.png", "trip/a": photos / "trip" / "a.jpg"}


def test_two_photographs_of_one_result_are_refused_by_name(photos, tmp_path):
    other = tmp_path / "other" / "a.png"
    write(other)
    with pytest.raises(ConfigError, match=f"{photos / 'a.png'} and {other} would both be written to a.png"):
        find_photos([photos, other], tmp_path / "out")
    write(photos / "a.webp")
    with pytest.raises(ConfigError, match=r"a\.png and .*a\.webp have the same name"):
        find_photos([photos], tmp_path / "out")
    assert find_photos([photos / "a.png", photos / "a.png"], tmp_path / "out") == {"a": photos / "a.png"}


def test_only_earlier_results_are_replaced(photos, tmp_path):
    found, out = find_photos([photos / "a.png"], tmp_path / "out"), tmp_path / "out"
    refuse_to_replace(found, out)
    write(out / "a.png")
    with pytest.raises(ConfigError, match=r"out/a\.png is not a result of vlcot restore"):
        refuse_to_replace(found, out)
    (out / "a.json").write_text(json.dumps({"text": "", "block_text": {}}))
    refuse_to_replace(found, out)
    (out / "a.json").write_text('{"scene": "street"}')
    with pytest.raises(ConfigError, match="is not a result of vlcot restore"):
        refuse_to_replace(found, out)


def test_a_file_is_no_folder_for_results(photos, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(ConfigError, match="is not a folder"):
        refuse_to_replace(find_photos([photos], tmp_path / "out"), tmp_path / "out")


def test_a_run_of_prompts_restores_nothing(photos, tmp_path):
    said = r"^text_to_image answers prompts \(data\.kind is prompts\) and restores no photographs; give a run [^\n]*$"
    with pytest.raises(ConfigError, match=said):
        restore(load_config("text_to_image"), [photos], tmp_path / "out")
    assert not (tmp_path / "out").exists()
