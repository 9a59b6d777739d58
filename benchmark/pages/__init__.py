"""What a page of the documentation says about a plugin, made from its source alone."""
