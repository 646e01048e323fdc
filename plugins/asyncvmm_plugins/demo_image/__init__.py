"""The image ``demo``: a small monitor of our own, assembled when it is first wanted."""
