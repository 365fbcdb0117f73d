"""Studies: methods held against each other on nested parts of the data, on other domains, and by a fixed protocol."""
