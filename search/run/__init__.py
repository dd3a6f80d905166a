"""A study being run: Ray Tune over our searcher, scheduler and journal; full runs."""
