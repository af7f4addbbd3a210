"""The site of the documentation; built without any network."""

import htcdaskgateway

project = "htcdaskgateway"
author = "the htcdaskgateway developers"
copyright = "2026, the htcdaskgateway developers"
version = release = htcdaskgateway.__version__

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
nitpicky = False

html_theme = "furo"
html_title = f"htcdaskgateway {release}"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings tell the types
numpydoc_show_class_members = False
