"""Collision policies: what happens to items that share a SID. One file is one policy; see ``base``."""
