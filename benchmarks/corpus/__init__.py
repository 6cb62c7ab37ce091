"""Recorded traces of real training processes, healthy and dying, and the script that makes them."""
