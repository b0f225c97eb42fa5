"""The report: one HTML page that shows what was learnt, and every error."""

import logging
from pathlib import Path
from typing import Any

# Without a home for its font cache, Matplotlib takes another place, and says so on import.
logging.getLogger("matplotlib").setLevel(logging.ERROR)


def render(template: Path, **values: Any) -> str:
    """Fill in the template of a page; markup in a value comes out as text."""
    from jinja2 import StrictUndefined, Template

    text = template.read_text(encoding="utf-8")
    page = Template(
        text, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html: str = page.render(**values)
    return html
