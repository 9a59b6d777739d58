"""ActionPiece (arXiv 2502.13581): a vocabulary of feature sets that occur together, and the encoding with it."""
