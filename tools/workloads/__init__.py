"""Linux's own work, here and in QEMU: how long programs of a guest take."""
