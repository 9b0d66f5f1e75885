"""A run's net as a page and a JSON API."""
