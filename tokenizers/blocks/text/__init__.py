"""Sub-words and phrases."""
