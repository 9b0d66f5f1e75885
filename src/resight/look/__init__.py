"""A run, or any net, opened and looked at: measured, mapped, summarised."""
