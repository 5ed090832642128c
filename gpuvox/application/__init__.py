"""A randomise run: files and options in, maps, null distributions and a record of the run out."""
