"""Charts: axes hold what they show, any curve can be drawn, labels tell values apart, and text is escaped."""

import json
import re
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cluster.report.charts import (
    Series,
    element,
    line_chart,
    moving_average,
    nice_ticks,
    short,
    stack_chart,
    tick_labels,
)


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_span_the_values_and_are_few(low, span):
    ticks = nice_ticks(low, low + span)
    slack = 1e-6 * max(abs(low), span, 1.0)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + span - slack
    assert 2 <= len(ticks) <= 7
    assert len(set(ticks)) == len(ticks)


@settings(deadline=None)
@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=40), st.booleans())
@example([5e-324], True)
@example([1.7e308], True)
def test_any_curve_can_be_drawn(values, is_log):
    svg = line_chart([Series(name="<x>", points=list(enumerate(values)))], is_log=is_log, limit=1e-4)
    assert "nan" not in svg
    assert "inf" not in svg
    assert "<x>" not in svg


def test_long_runs_are_binned_and_nothing_is_said_of_nothing():
    svg = stack_chart([Series(name="a", points=[(float(i), 1.0) for i in range(1000)])])
    assert svg.count("<rect") == 59
    assert "not measured" in stack_chart([])
    assert "not measured" in line_chart([Series(name="a", points=[])])


def test_a_moving_average_of_a_line_is_the_line():
    points = [(float(i), 2.0 * i) for i in range(40)]
    assert moving_average(points)[5:-5] == points[5:-5]
    assert moving_average(points[:5]) == []


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-14, 5e-324])
def test_a_flat_curve_has_an_axis_too(value):
    ticks = nice_ticks(value, value)
    assert ticks[0] <= value <= ticks[-1]
    assert len(set(ticks)) == len(ticks) >= 2


def test_axis_numbers():
    assert [short(value) for value in (0, 1e-6, 1.5e-7, 0.25, 1234567.0, -3e-9)] == [
        "0",
        "1e-6",
        "1.5e-7",
        "0.25",
        "1.2e6",
        "-3e-9",
    ]


@pytest.mark.parametrize("marked", [[0.0], [4.0, 5.0], [9.0], [100.0], []])
def test_marked_steps_stay_inside_the_chart(marked):
    svg = line_chart([Series(name="a", points=[(float(i), 1.0) for i in range(10)])], marked=marked)
    found = re.findall(r'class="marked" x="([\d.]+)" y="10" width="([\d.]+)"', svg)
    assert len(found) == sum(step <= 9 for step in marked)
    assert all(float(x) >= 46 and float(x) + float(width) <= 368.01 for x, width in found)


def test_labels_of_an_axis_differ():
    assert tick_labels([20.35001, 20.35002, 20.35003]) == ["20.35001", "20.35002", "20.35003"]
    assert tick_labels([0.0, 0.25, 0.5]) == ["0", "0.25", "0.5"]
    assert tick_labels([1e-6, 1.001e-6]) == ["1e-6", "1.001e-6"]


def test_elements_escape_text_and_attributes():
    made = element("text", "<a> & b", element("title", "c"), class_='"x"', text_anchor="end", x=1.25)
    parsed = ElementTree.fromstring(made)
    assert parsed.attrib == {"class": '"x"', "text-anchor": "end", "x": "1.2"}
    assert parsed.text == "<a> & b"
    assert parsed[0].text == "c"


def test_hovering_finds_every_value():
    lines = [Series(name="a", points=[(0.0, 1.0), (2.0, 3.0)]), Series(name="b", points=[(2.0, 5.0)])]
    data = json.loads(ElementTree.fromstring(line_chart(lines)).get("data-chart"))
    assert data["steps"] == "0 2"
    assert [line["values"] for line in data["lines"]] == ["1 3", "- 5"]
    stacked = json.loads(ElementTree.fromstring(stack_chart(lines)).get("data-chart"))
    assert [line["values"] for line in stacked["lines"]] == ["1 3", "0 5"]
    assert len(stacked["x"].split()) == 2


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-300])
def test_what_has_no_logarithm_stays_inside_the_chart(value):
    points = [(0.0, 1e-5), (1.0, value), (2.0, 1e-7)]
    path = ElementTree.fromstring(line_chart([Series(name="a", points=points)], is_log=True)).find("path")
    heights = [float(pair.split()[1]) for pair in path.get("d")[1:].split("L")]
    assert all(10 <= height <= 146 for height in heights)
    assert heights[1] == 146
