"""Every kernel against the CPU path, bit for bit; a new family of checks is a module here and a line in `families`."""
