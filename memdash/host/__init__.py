"""What the machine says about memory. Runs in the supervisor, outside the training process."""
