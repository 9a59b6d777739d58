"""Item features: one encoder a file, text and vision and precomputed, plus scaling and the richness proxy."""
