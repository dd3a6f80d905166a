"""Corpora, tokenizers, token arrays."""
