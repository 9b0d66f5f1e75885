"""A folder of images, looked at before a training: `inspect_data`."""
