"""What any training script carries: a link to its supervisor, a memory reader, and the commands it obeys."""
