"""What the pages share: templates of this folder become HTML files that need no server and no network."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

HERE = Path(__file__).parent


def render(template: str, **values: Any) -> str:
    """The HTML of a template of this folder with these values; a value that the template misses is an error."""
    environment = Environment(
        autoescape=True, loader=FileSystemLoader(HERE), lstrip_blocks=True, trim_blocks=True, undefined=StrictUndefined
    )
    environment.filters |= {"percent": "{:.2%}".format, "count": "{:,.0f}".format}
    return environment.get_template(template).render(**values)


def scripts(names: Sequence[str]) -> list[Markup]:
    """The texts of scripts of this folder, to be put into a page as they are."""
    return [Markup((HERE / name).read_text(encoding="utf-8")) for name in names]  # noqa: S704  # our own


def encode(content: bytes) -> str:
    """The content in base64."""
    return base64.b64encode(content).decode()
