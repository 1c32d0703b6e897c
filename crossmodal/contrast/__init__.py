"""The contrast core: where negatives come from, and scores -> losses."""
