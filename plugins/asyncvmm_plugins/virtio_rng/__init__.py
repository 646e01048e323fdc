"""virtio-rng: entropy from the machine's seed."""
