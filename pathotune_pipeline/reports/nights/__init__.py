"""What became of an archive in one night: a page a night, and an index over them."""
