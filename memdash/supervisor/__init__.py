"""The process that owns the training processes and outlives every dashboard. It never imports torch."""
