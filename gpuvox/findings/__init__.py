"""The results of any run: clusters, their location and values, figures, and a report."""
