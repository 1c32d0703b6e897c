"""The page as HTML, from templates beside this file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from pipelines.reporting.answer import Answer
from pipelines.reporting.table import unbroken


def render(title: str, answer: Answer, sections: Sequence[Mapping[str, Any]], environment: Mapping[str, Any]) -> str:
    """The page.

    Args:
        title: its heading.
        answer: what it begins with.
        sections: of `describe_run`, one for each run.
        environment: versions and machine, as `pipelines.runs.folder` tells them.
    """
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals["unbroken"] = unbroken
    return templates.get_template("report.html").render(
        title=title, answer=answer, sections=sections, environment=environment
    )
