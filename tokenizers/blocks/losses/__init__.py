"""Loss terms that several tokenizers share."""
