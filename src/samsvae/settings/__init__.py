"""Every setting, defined once: plain dataclasses, for Python, TOML and the command line."""
