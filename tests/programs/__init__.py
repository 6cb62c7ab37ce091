"""Small real training processes with switches for bad manners."""
