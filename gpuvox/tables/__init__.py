"""The table of participants: reading it, conditions on its rows, its columns and groups, and paths in its cells."""
