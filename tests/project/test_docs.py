"""What the documentation says is there: every method of the table, its key, its code and its test."""

import ast
import re
from pathlib import Path

import pytest

from configs.algorithms import ALGORITHMS
from configs.load import load_config
from tests.reference.command import ROOT

ROWS = [
    [cell.strip() for cell in line.strip("| \n").split(" | ")]
    for line in (ROOT / "docs/algorithm.md").read_text().splitlines()
    if line.startswith("| ") and "::test_" in line
]


def names_in(path: Path) -> set[str]:
    """Everything a module defines at its top."""
    defined = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined.add(node.target.id)
    return defined


def test_every_algorithm_is_in_the_table():
    assert {row[0].strip("`") for row in ROWS if row[0].startswith("`")} == set(ALGORITHMS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_names_a_key_code_and_a_test_that_are_there(row):
    assert len(row) == 6
    load_config("demo", [row[2].strip("`")])
    file, _, name = row[4].strip("`").partition(":")
    assert name in names_in(ROOT / file)
    file, _, name = row[5].strip("`").partition("::")
    assert name in names_in(ROOT / "tests" / file)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_links_inside_the_project_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
