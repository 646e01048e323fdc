"""virtio-vsock: stream sockets between a guest and programs on its host."""
