"""How Sphinx builds these pages: `pip install -e ".[docs]"`, then `sphinx-build -W docs docs/build`."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from flax import nnx
from sphinx.application import Sphinx
from sphinx.util import inspect

project = "jaxkd"
author = "The jaxkd authors"
copyright = author
release = importlib.metadata.version("jaxkd")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns = ["build"]
default_role = "code"  # docstrings mark code with single backticks
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"jaxkd {release}"
html_static_path = ["style"]
html_css_files = ["wide.css"]
html_copy_source = False
html_show_sphinx = False

autosummary_generate = False  # the tables only; every object stands below them on its page
autodoc_member_order = "groupwise"
autodoc_inherit_docstrings = False
autodoc_typehints = "none"  # docstrings say shapes and meanings
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False


def setup(app: Sphinx) -> None:
    """Connects what follows."""
    app.connect("autodoc-process-signature", own_signature)
    app.connect("autodoc-skip-member", skip_field)
    app.connect("autodoc-process-docstring", escape_bars)


def own_signature(
    app: Sphinx, what: str, name: str, found: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """What a Flax module is made with, in place of its metaclass's `(*args, **kwargs)`."""
    if what == "class" and isinstance(found, type) and issubclass(found, nnx.Module):
        plain = found.__init__ is nnx.Module.__init__ or found.__init__ is object.__init__
        shown = inspect.stringify_signature(inspect.signature(found.__init__, bound_method=True), show_annotation=False)
        return "()" if plain else shown, None
    return signature, returns


def skip_field(app: Sphinx, what: str, name: str, found: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out the fields of named tuples, which their class describes."""
    return True if type(found).__name__ == "_tuplegetter" else None


def escape_bars(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Lets |x| be an absolute value: docstrings are plain text, in which bars mark nothing."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")) and "`" not in line:
            lines[number] = line.replace("|", r"\|")
