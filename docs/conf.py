"""The site: Sphinx with MyST and furo. `scripts/docs` builds it, warnings as errors."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

import nprobot

project = "nprobot"
author = "nprobot contributors"
copyright = "nprobot contributors, MIT licence"
release = version = nprobot.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "api_pages",
    "command_line_pages",
]
exclude_patterns = ["_build"]
nitpicky = True
nitpick_ignore_regex = [
    # Other libraries, whose lists of names the build does not fetch.
    ("py:class", r"(collections\.abc|pathlib|numpy|torch|gymnasium|stable_baselines3)\..*"),
    # Ours that is not public: classes of states and parts, by the module that they are in.
    ("py:class", r"(.*\.)?_\w+"),
    ("py:class", r"nprobot(\.\w+){3,}"),
    ("py:class", r"(Regression|Recorder|Options|Ledger|Actor|Critic|nn\.Module)"),
]
default_role = "code"  # a name in single backticks, as docstrings have it
language = "en_GB"

myst_enable_extensions = ["deflist", "attrs_block", "colon_fence"]
myst_heading_anchors = 4

autodoc_typehints = "none"  # signatures have them; docstrings say what they mean
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "nprobot"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
