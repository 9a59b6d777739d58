"""Splits: protocols that divide interactions into training, validation and test events."""
