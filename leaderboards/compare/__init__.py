"""Two rows side by side."""
