"""The metrics, one family a file. A file dropped in here declares more: ``METRICS`` is all that is read of it."""
