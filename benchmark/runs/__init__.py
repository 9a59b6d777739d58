"""One run as a value, and from it to its record."""
