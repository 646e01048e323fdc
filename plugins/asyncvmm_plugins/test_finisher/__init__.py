"""SiFive's test finisher: how bare-metal programs and Linux's syscon drivers end a machine."""
