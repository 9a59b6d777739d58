"""Shared quantiser blocks: k-means, vector quantisation, MLPs, and the runtime contract that neural stages train by."""
