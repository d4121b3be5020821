"""Amazon Connect: contact events and Kinesis Video Streams in, `/v1/ingest/audio` out; `cueline connect-kvs` runs it.

matroska       pure: bytes → elements
fragments      pure: elements → fragments with their tags, audio blocks by role
timeline       pure: blocks → samples on the call's clock
contact_audio  pure: one contact's audio out of a stream that contacts share
contacts       pure: what Connect tells of contacts
cursor         durable: where each contact's reading stands
"""
