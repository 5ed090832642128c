"""Measurements in images: regions of interest, clusters, labels, image series with a volume for each participant."""
