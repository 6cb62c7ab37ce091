"""What reports for training loops of others."""
