"""What stays on disk: cached stages, records, notes of failures."""
