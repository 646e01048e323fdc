"""One way each to use a machine's folder until one is killed, and what must hold then."""
