"""The `nanosweep` command."""
