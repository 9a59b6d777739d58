"""Frozen boards: what was published under a version, and the rules by which it is judged for ever.

The modules of this package import no metric, renderer, key rule or plugin of today: what format 1 means is written down
here once, so that the rest of the suite may change. A rule of a format is never edited once a board was frozen under it;
a board that the rules do not fit is refused when it is frozen, and gets a next format beside this one.
"""
