"""What a target names is found, or refused in one line that names the key and the nearest right name."""

import pytest

from rl.errors import ConfigError
from rl.targets import check_function, check_options, load_target

HERE = "tests.rl.test_targets"


def three(first, second, *, factor=1.0):
    return first, second, factor


def said(call, *args, **kwargs):
    with pytest.raises(ConfigError) as caught:
        call(*args, key="some.key", **kwargs)
    message = str(caught.value)
    assert message.startswith("some.key: ")
    assert "\n" not in message
    return message


def test_a_target_is_imported():
    assert load_target("rl.targets:load_target", key="some.key") is load_target


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("rl.target:load_target", "no module 'rl.target'; did you mean rl.targets?"),
        ("no_such_package.x:Y", "no module 'no_such_package'; is its folder on PYTHONPATH?"),
        ("rl.targets:laod_target", "rl.targets has no 'laod_target'; did you mean load_target?"),
        ("rl.targets", "want package.module:Thing, got 'rl.targets'"),
        (":load_target", "want package.module:Thing, got ':load_target'"),
    ],
)
def test_a_wrong_target_is_named_with_the_nearest_right_one(target, message):
    assert message in said(load_target, target)


def test_an_error_inside_the_authors_module_stays_the_authors(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "module_of_an_author.py").write_text("import a_package_nobody_has\n")
    with pytest.raises(ModuleNotFoundError, match="a_package_nobody_has"):
        load_target("module_of_an_author:Thing", key="some.key")


def test_functions_that_can_be_called_pass():
    check_function(three, ["first", "second"], key="some.key")
    check_function(three, ["first", "second"], {"factor": 2.0}, key="some.key")
    check_options(three, {"first": 1, "second": 2}, key="some.key")


def test_a_function_of_another_signature_is_told_which_one_is_wanted():
    message = said(check_function, three, ["values", "mask", "sizes"], {"factor": 2.0})
    assert "three(first, second, *, factor=1.0) cannot be called: too many positional arguments" in message
    assert message.endswith("want three(values, mask, sizes, factor)")
    assert "got an unexpected keyword argument 'size'" in said(check_function, three, ["a", "b"], {"size": 1})
    assert said(check_function, 3, ["values"]).startswith("some.key: 3 is no function; want 3(values)")


def test_an_unknown_option_is_named_with_the_nearest():
    message = said(check_options, three, {"first": 1, "second": 2, "faktor": 2.0})
    assert message.endswith("three takes: first, second, factor; did you mean factor?")
