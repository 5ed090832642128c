"""gpuvox in other people's workflow engines."""
