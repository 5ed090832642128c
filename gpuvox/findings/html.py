"""A report as HTML: one file that needs no other files and no network.

The templates and the scripts for the browser (sortable tables, the viewer) are in ``templates/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gpuvox.findings import safe

HERE = "gpuvox.findings"
ASSETS = {"style": "report.css", "script": "report.js", "viewer_script": "viewer.js"}


def render(template: str, variables: Mapping[str, Any], package: str = HERE) -> str:
    """A page from a template of a package, which may use those of this room."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in dict.fromkeys((package, HERE))]), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=safe.isolated,
    )  # fmt: skip
    environment.filters["shown"] = safe.shown
    assets = {name: _asset(file) for name, file in ASSETS.items()} | {"policy": safe.POLICY}
    return safe.sealed(environment.get_template(template).render({**variables, **assets}))


def _asset(name: str) -> Markup:
    return Markup((resources.files(HERE) / "templates" / name).read_text(encoding="utf-8"))
