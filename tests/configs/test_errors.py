"""What is read of any error: its first line, and the single errors of a group."""

from configs.errors import first_line, leaves


def test_the_first_line_is_the_first_that_says_something():
    assert first_line(ValueError("\n  first\nsecond")) == "first"
    assert first_line(ValueError()) == "ValueError"


def test_groups_in_groups_are_their_single_errors():
    first, second, third = ValueError("1"), KeyError("2"), OSError("3")
    group = ExceptionGroup("outer", [first, ExceptionGroup("inner", [second, third])])
    assert list(leaves(group)) == [first, second, third]
    assert list(leaves(first)) == [first]
