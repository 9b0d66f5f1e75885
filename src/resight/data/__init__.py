"""Images in, uint8 arrays out: sources, the cache of decoded images, batches and augmentation."""
