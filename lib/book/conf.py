"""What Sphinx is told about the book; https://www.sphinx-doc.org/en/master/usage/configuration.html"""

from pathlib import Path

project = html_title = "ContextSSL"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinxcontrib.bibtex", "lib.book.extension"]
exclude_patterns = ["results", "lib", "paper", "data"]  # files that pages link to are no pages
bibtex_bibfiles = ["references.bib"]
suppress_warnings = ["mystnb.lexer"]

myst_enable_extensions = ["amsmath", "attrs_inline", "dollarmath"]
myst_dmath_double_inline = True
myst_heading_anchors = 4
nb_execution_mode = "off"
nb_render_markdown_format = "myst"
nb_code_prompt_show, nb_code_prompt_hide = "Code", "Fold the code"
nb_ipywidgets_js = {}  # no notebook has widgets, and their script would come from the network

html_theme = "sphinx_book_theme"
html_theme_options = {
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navbar_persistent": [],  # one field for the search is enough
}
html_math_renderer = "mathml"
html_static_path = [str(Path(__file__).parent / "static")]
html_css_files = ["book.css"]
html_use_index = html_domain_indices = html_copy_source = False
html_show_sourcelink = html_show_copyright = html_show_sphinx = False
html_show_search_summary = False  # would fetch pages, which a browser refuses to a page that is opened from a file
