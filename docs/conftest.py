"""Notebooks are run by the site, which `make docs` builds."""

collect_ignore_glob = ["notebooks/*", "site_hooks.py", "google_docstrings.py"]
