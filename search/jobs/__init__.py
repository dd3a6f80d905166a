"""Jobs on a Ray cluster: submit a study, list, follow and stop jobs."""
