"""A run on disk. The only package that opens run files."""
