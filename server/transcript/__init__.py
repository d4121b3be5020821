"""Recogniser events and transcript sources become utterances: one bubble each, revisions that only grow. Pure."""
