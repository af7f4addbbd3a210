"""The site of the documentation; built without any network."""

import htcdaskgateway

project = "htcdaskgateway"
author = "the htcdaskgateway developers"
copyright = "2026, the htcdaskgateway developers"
version = release = htcdaskgateway.__version__

extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "jupyter_execute"]
nitpicky = False

html_theme = "furo"
html_title = f"htcdaskgateway {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_js_files = ["pages.js"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
smartquotes = False  # --bind is no dash
nb_execution_mode = "off"  # a test runs the notebook; the site shows what it printed then

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings tell the types
numpydoc_show_class_members = False
