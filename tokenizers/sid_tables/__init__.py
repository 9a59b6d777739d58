"""SID tables as files: reading what others published, writing what we made. Imports no torch (one reader does, late)."""
