"""Rooms: routing, order, history, limits, and how they begin and end."""
