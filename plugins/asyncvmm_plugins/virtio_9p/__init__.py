"""Folders of the host for guests: 9P2000.L over virtio. ``tree.py`` first, then ``session.py``."""
