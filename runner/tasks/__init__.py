"""What can be trained: one workload per file, all behind the Task protocol."""
