"""The training loop and its parts: optimiser, log, signals, memory, monitor."""
