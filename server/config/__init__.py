"""One frozen configuration tree, read once at start and checked as a whole.

`settings` is the tree with its defaults, `load` reads a TOML file and `CUELINE_*` variables over them.
"""

from server.config.load import load_settings
from server.config.settings import Settings

__all__ = ["Settings", "load_settings"]
