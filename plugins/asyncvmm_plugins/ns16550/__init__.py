"""The 16550A UART: what firmware, xv6 and Linux's 8250 driver talk to first."""
