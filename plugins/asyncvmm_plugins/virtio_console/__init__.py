"""virtio-console: a console and any number of named byte streams."""
