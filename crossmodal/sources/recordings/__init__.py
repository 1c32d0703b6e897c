"""Recordings: what sensors wrote down over time, as bags, videos, LeRobot data sets or lists of files.

A recording has streams of frames, each with a stamp. `stream` is the interface, the other files read one kind of
recording each, or put the frames of several streams together.
"""
