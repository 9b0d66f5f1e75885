"""Run folders: reading and writing what a training produces."""
