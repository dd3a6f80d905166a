"""A study on disk: its journal, its folder, its trials as reconstructed from the journal, and their scores."""
