"""What all pages of HTML share."""

import jinja2

from kopt.report.parts import formats


def environment() -> jinja2.Environment:
    """Return where the templates are, with everything escaped that is not marked as HTML."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("kopt.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals.update(f=formats)
    return found
