"""Recommenders: retrievers predict the next item, rankers score (user, item) rows; each consumes any tokenizer's SIDs."""
