"""Reading raw files: locating, downloading with checks, and line readers that name file and line in every error."""
