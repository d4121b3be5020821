"""The event log: channels with epochs and offsets, snapshots, followers."""
