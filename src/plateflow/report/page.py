"""From data to a page: templates with every value escaped, style and scripts inside, nothing fetched."""

from __future__ import annotations

from functools import cache
from typing import Any

from markupsafe import Markup


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("plateflow.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: Any) -> Markup:
    """A page, or a section of one, which isn't escaped again where a page shows it."""
    return Markup(_environment().get_template(template).render(**values))


def chart_library() -> Markup:
    """Vega, Vega-Lite and vega-embed as one script, 0.9 MB, with nothing in it that closes a script."""
    import vl_convert

    bundle: Any = vl_convert.javascript_bundle  # its stub says that it needs an argument
    return Markup(bundle().replace("</script", "<\\/script"))
