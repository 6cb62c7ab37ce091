"""What can befall a run, for tests/chaos.py: faults, the run that suffers them, and what must hold in the end."""
