"""The agent app: the page served at `/`, and what serves it."""
