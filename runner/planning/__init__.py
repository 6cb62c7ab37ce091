"""What fits, before it is launched: the data's lengths, a step traced on fake tensors, its peak at any size (estimates)."""
