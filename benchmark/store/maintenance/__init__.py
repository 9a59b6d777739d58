"""Looking after the store: what the cache and the runs hold, what may go, and what is damaged. Imports no torch."""
