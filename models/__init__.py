"""The GPT and its losses."""
