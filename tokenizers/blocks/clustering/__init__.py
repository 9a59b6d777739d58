"""k-means and its bounded and tree-shaped kin."""
