"""Templates of prompts: Jinja, from the configuration or a file, filled with a row's columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError, UndefinedError
from jinja2.sandbox import SandboxedEnvironment

from configs.paths import expand
from configs.suggest import suggest
from rl.errors import DataError

KEY = "data.template"
CONTENT = "content"
"""What a template calls the prompt."""


class PromptTemplate:
    """A Jinja template around a prompt's text.

    Args:
        source: The template, or the name of a file that holds it.

    Raises:
        DataError: If the file is not there, or it is no template.
    """

    def __init__(self, source: str) -> None:
        self.text = source if "{" in source else _read(source)
        try:
            self._template = SandboxedEnvironment(undefined=StrictUndefined).from_string(self.text.strip())
        except TemplateError as error:
            raise DataError(f"{KEY}: no Jinja template: {error}; mend it") from error

    def fill(self, content: str, columns: Mapping[str, Any], *, where: str) -> str:
        """Return the prompt.

        Args:
            content: The prompt's text as the table has it.
            columns: The row's others, by name.
            where: File and row, for messages.

        Raises:
            DataError: If the template names something else, or cannot be filled with the row.
        """
        known = {**columns, CONTENT: content}
        try:
            return self._template.render(known)
        except UndefinedError as error:
            near = suggest(str(error).split("'")[1], known) if "'" in str(error) else ""
            raise DataError(
                f"{KEY}: {error} in {where}{near or '; there are ' + ', '.join(known)}"
            ) from error
        except (TemplateError, TypeError, ValueError) as error:
            raise DataError(f"{KEY}: cannot be filled with {where}: {error}") from error


def _read(path: str) -> str:
    try:
        return Path(expand(path)).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{KEY}: {path} cannot be read; give a file of a Jinja template, or the template itself"
        ) from error
