"""The package that ``bench plugin new`` writes: its templates, and the code that fills them in."""
