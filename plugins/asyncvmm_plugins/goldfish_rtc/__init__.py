"""The Goldfish real-time clock: nanoseconds since 1970, and an alarm."""
