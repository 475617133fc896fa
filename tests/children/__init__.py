"""Programs: what they are given, how they are started and stopped, and what they print."""
