"""Deepgram's live protocol over any recogniser: an air-gapped stand-in for the vendor, and its peer in our tests.

    client ── wss /v1/listen?… ─▶ query ─▶ session ─▶ one recogniser stream a channel ─▶ results ─▶ client

query    pure: what the client asked for, or which parameter is wrong
results  pure: speech events → the vendor's messages, in windows that tile the audio
faults   what goes wrong on purpose, for tests
session  one connection
server   the listening socket: credentials, health, refusals
"""
