"""The report of a run: a self-contained page and a README with pictures."""
