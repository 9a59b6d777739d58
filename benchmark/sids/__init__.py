"""Semantic IDs looked at and compared."""
