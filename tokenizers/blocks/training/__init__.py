"""What trained tokenizers share: batches, budgets, networks, content vectors."""
