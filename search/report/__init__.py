"""A study drawn: the HTML report, its SVG charts, figures and sample texts."""
