"""Tokenizers that run another tokenizer of the suite."""
