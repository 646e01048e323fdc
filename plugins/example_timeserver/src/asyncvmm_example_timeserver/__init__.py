"""A time server at the end of a network's cable, in virtual time.

Reading order: ``packets.py`` (what is on the wire), ``config.py``, ``state.py``, ``backend.py`` (the
server), ``hooks.py`` (how asyncvmm finds it).
"""
