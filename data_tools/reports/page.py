"""Pages for people: one HTML file that loads nothing from elsewhere, made from a template.

A page's template extends page.html, which has the style, and takes tables and pictures from
parts.html. All values are escaped, because names of runs may hold any text.
"""

import base64
from pathlib import Path
from typing import Any

import jinja2


def render_page(template: Path, **values: Any) -> str:
    """Fills in a template; fails if the template names a value that is not given."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    return environment.get_template(template.name).render(**values)


def _data_uri(picture: Path) -> str:
    """A PNG as a URL that holds it, so that the page needs no other file."""
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
