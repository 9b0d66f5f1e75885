"""Run folders: what a training leaves, read and written."""
