"""Measurements: how fast, how much, and for how long."""
