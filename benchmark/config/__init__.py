"""Settings of a run: the schema, presets, and what they say of themselves."""
