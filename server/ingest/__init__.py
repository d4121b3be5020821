"""The doors for telephony: sockets that take audio or transcripts, answered first and worked after.

websocket          thin ASGI socket: typed frames in, typed messages and errors out
audio              pure: frames of any accepted format → linear16 mono a role
arrivals           pure: when the block that holds an audio instant arrived
contract           what a live call offers to its sources
audio_socket       `/v1/ingest/audio`
transcript_socket  `/v1/ingest/transcripts`
"""
