"""In-process games, and those that come with the server."""
