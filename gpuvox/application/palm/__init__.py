"""``gpuvox palm``: PALM's inference, with its options and its names of files."""
