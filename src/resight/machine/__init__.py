"""What the machine has for a training, and what of it stands in the way: `resight doctor`."""
