"""What the campaigns of hostile guests share."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

from tests.security.machines import BASE, MEMORY

campaign = settings(derandomize=True, deadline=None, max_examples=40)

words = st.one_of(
    st.sampled_from([0, 1, 2, 3, 4, 7, 0xB, 0xF, 0xFF, 0xFFFF_FFFF, 1 << 63, (1 << 64) - 1]),
    st.sampled_from([0x5555, 0x7777, 0x0007_3333]),
    st.integers(0, (1 << 64) - 1),
    st.integers(BASE, BASE + MEMORY),
)
