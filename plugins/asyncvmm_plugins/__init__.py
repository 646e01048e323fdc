"""First-party devices and images, registered like a stranger's."""
