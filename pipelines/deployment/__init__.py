"""The command that exports trained encoders."""
