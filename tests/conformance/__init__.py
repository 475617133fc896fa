"""The Autobahn conformance cases, run against the server: `python3 -m tests.conformance`."""
