"""Stopping rules: which trials end before their full length. A file per rule; pure, on plain values."""
