"""Plugins: found without importing them, identified by version, guarded by the hash of their code."""
