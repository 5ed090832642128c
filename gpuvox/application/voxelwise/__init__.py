"""``gpuvox voxelwise`` and ``gpuvox.voxelwise``: from a table, images and a formula to maps and what they show."""
