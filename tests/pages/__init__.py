"""Pages in browsers, and clients in terminals."""
