"""Layer 3, pipelines: configs, logs, loops; the only user of accelerate."""
