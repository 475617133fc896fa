"""Backends that come with the server; their rules import no socket, thread or clock."""
