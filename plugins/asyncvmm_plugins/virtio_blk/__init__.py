"""virtio-blk: a disk."""
