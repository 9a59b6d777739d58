"""Published boards: written, frozen, verified."""
