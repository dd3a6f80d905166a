"""Views of a study: the HTML report with its SVG charts, PNG figures, sample texts."""
