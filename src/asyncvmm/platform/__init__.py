"""The board's own controllers: ACLINT (timers, software interrupts) and PLIC, compiled."""
