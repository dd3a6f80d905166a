"""Statistics as pure functions of numbers: no study, no files."""
