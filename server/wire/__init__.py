"""The one definition of everything that crosses a socket or a room: ids, values, messages, errors, codecs.

    ids, clock      names and times
    utterance       what was said (transcript) and what a model claims of it (annotation)
    publication     what the feed carries: envelope, kinds and their payloads
    ingest, feed    messages of the three sockets
    errors          the exception tree with its stable codes
    codec           one encoder, one typed decoder for each message union

Imports no other room. `docs/asyncapi.yaml` is generated from here.
"""
