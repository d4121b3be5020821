"""Clients of our own sockets: the feed client and the telephony source that replays a recording."""
