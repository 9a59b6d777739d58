"""Contract checks for plugins, as authors run them."""
