"""The version of the package, in this one place: pyproject.toml reads it here."""

__version__ = "0.1.1"
