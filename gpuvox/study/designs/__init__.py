"""Design files for `gpuvox randomise`, made from a table of participants or of visits."""
