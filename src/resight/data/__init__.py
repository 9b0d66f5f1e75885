"""Images in, uint8 arrays out: sources, the decoded cache, and what an epoch draws."""
