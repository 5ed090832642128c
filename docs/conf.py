"""How Sphinx builds the documentation site: ``make docs``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "examples" / "tutorials")]
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])  # for the commands that tutorials run

import gpuvox  # noqa: E402
from tools import site  # noqa: E402

project, author, copyright = "gpuvox", "The gpuvox developers", "The gpuvox developers"
version = release = gpuvox.__version__.split("+")[0]

only_doctests = tags.has("doctest")
extensions = [
    "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest", "numpydoc", "sphinx_design", "sphinx_copybutton",
]  # fmt: skip
extensions += [] if only_doctests else ["sphinx_gallery.gen_gallery"]

exclude_patterns = ["**/sg_execution_times.rst", "sg_execution_times.rst"]
exclude_patterns += ["tutorials/*"] if only_doctests else []
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
suppress_warnings = ["config.cache"]
suppress_warnings += ["myst.xref_missing", "toc.excluded", "image.not_readable"] if only_doctests else []
smartquotes = False  # or -- would become a dash

html_theme = "furo"
html_title = "gpuvox"
html_static_path = ["pictures/site.css"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"source_repository": site.REPOSITORY, "source_branch": "main", "source_directory": "docs/"}
html_last_updated_fmt = None
pygments_style = "friendly"
highlight_language = "text"
copybutton_prompt_text = r"\$ |>>> |> "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"

autodoc_typehints = "none"  # numpydoc's sections have the types, with shapes and units
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
trim_doctest_flags = True
doctest_global_setup = "from tools.doctest_files import *"

sphinx_gallery_conf = {
    "examples_dirs": ["../examples/tutorials"],
    "gallery_dirs": ["tutorials"],
    "filename_pattern": r"\.py$",
    "ignore_pattern": r"__init__\.py|cohorts\.py",
    "within_subsection_order": site.reading_order,
    "remove_config_comments": True,
    "download_all_examples": False,
    "show_signature": False,
    "plot_gallery": True,
    "abort_on_example_error": True,
    "min_reported_time": 1,
    "show_memory": False,
    "image_scrapers": ("matplotlib",),
    "reset_modules": ("matplotlib",),
    "capture_repr": ("_repr_html_", "__repr__"),
}


def setup(app: object) -> None:
    """Connect the pages that are made at build time, and links that leave the site."""
    site.write_pages(HERE / "generated")
    app.connect("source-read", site.relink)  # type: ignore[attr-defined]
