"""The folder of a run, its lock and lineage, and the processes of a launch."""
