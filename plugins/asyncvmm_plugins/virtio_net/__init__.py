"""virtio-net: a network card."""
