"""Other systems' audio protocols, each one file on one contract.

contract    what an adapter is: frames in, effects out, pure
endpoint    the socket they share: handshake, sources, limits
lca         Live Call Analytics' WebSocket
twilio      Twilio Media Streams
audiohook   Genesys AudioHook
"""
