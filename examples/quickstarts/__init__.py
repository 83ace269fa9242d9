"""Complete programs of at most sixty lines, each in one file, to copy and change."""
