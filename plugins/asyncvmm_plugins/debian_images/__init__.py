"""Guest images from Debian packages: debian, debian-full, linux, debian-root."""
