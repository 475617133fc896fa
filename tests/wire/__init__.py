"""Bytes: frames, messages, the protocol, HTTP, TLS, connections and their readers."""
