"""Statistics on plain numbers: no study, no files."""
