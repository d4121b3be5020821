"""Deepgram's live protocol, version 1. What is below `recogniser` is used by our own speech server as well.

messages    what is on the wire, both ways
mapping     pure: the vendor's messages → speech events on the call's audio clock
transport   the socket under the vendor's SDK
recogniser  the adapter
"""
