"""Published tables beside ours: their values, what they need to be run again, and what holds of their claims."""
