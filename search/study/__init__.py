"""A study on disk: its journal, its folder, the trials folded from it, their scores."""
