"""A training process of our own: the first user of the agent's public API, started by the supervisor, never imported by memdash."""
