"""A run's folder, its lock and lineage, and the processes that share it."""
