"""Hostile inputs by the million: ``python -m tools.fuzz``.

Reading order: ``targets.py`` (what there is and how it is found), ``campaign.py`` (one target with one
seed), ``__main__.py``. Targets of the floors are modules of ``tools.fuzz.of``; those of devices are
``plugins/.../tests/fuzz.py``.
"""
