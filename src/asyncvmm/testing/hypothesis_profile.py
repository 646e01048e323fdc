"""The profile under which the project's own property tests run: the same examples every time."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def load() -> None:
    """Derandomized, without deadlines. ``ASYNCVMM_HYPOTHESIS=random`` searches anew and prints seeds."""
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large]
    settings.register_profile(
        "asyncvmm", derandomize=True, deadline=None, suppress_health_check=quiet, print_blob=True
    )
    settings.register_profile(
        "asyncvmm-random", deadline=None, suppress_health_check=quiet, print_blob=True
    )
    wanted = os.environ.get("ASYNCVMM_HYPOTHESIS")
    settings.load_profile("asyncvmm-random" if wanted == "random" else "asyncvmm")
