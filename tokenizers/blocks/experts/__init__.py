"""Mixtures of experts with a codebook each."""
