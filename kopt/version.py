"""The version of kopt, in one place."""

__version__ = "0.1.0"
"""The version of this installation, as manifests note it.

Example:
    >>> kopt.__version__.count(".")
    2
"""
