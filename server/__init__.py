"""The uvloop application: telephony in, guidance out.

Rooms in the order of the data; a room imports only rooms before it and `server.main` alone wires them:

    wire · config · metrics · auth · store · log · speech · ingest · transcript · orchestrator · policy
    · knowledge · calls · translation · live · feed · replay · app · cli · simulators
"""
