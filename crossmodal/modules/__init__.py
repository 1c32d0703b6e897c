"""The modules that are trained: encoders together with their losses."""
