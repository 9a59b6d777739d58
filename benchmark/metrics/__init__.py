"""Metrics: one family a file; each function states formula, source and the rule for empty or tied input."""
