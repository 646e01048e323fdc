"""Differential testing: the interpreter against the reference executor, Spike and QEMU.

``words`` makes random instruction words, ``wild`` whole sequences for ``lockstep`` (interpreter and
reference side by side), ``image`` ELFs for ``oracles``, ``probes`` page tables and PMP for them,
``trap_probes`` delegation, interrupts and CSRs.
``python -m tools.differential`` is the long campaign; tests/differential runs short ones.
"""
