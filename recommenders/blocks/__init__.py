"""Shared parts of recommenders: fixed-shape batches, transformer blocks, SID embeddings and exact scoring."""
