"""Foundation: errors, seeds, settings and canonical hashes that every room stands on (no numpy-heavy or torch import)."""
