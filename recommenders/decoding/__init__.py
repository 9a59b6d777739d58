"""Decoding of SIDs: the trie of existing SIDs, beam search over it, and the ranks a beam can vouch for."""
