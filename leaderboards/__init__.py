"""Leaderboards rendered from records, and from nothing else."""
