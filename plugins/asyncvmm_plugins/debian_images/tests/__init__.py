"""Tests of the images from Debian packages; none needs the network but those marked guest."""
