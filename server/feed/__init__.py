"""The agent feed: `/v1/feed`, where a channel's log reaches its readers.

    log ──▶ Hub (one follower a channel) ──▶ Subscription ──▶ SendQueue ──▶ Outlet ──▶ socket
                                                  ▲
    frames of the client ──▶ Session (pure) ──▶ effects ──▶ FeedSocket (shell)

`session`, `queue`, `outgoing` and `origin` are pure; `socket`, `hub`, `outlet` and `transport` are the shell.
"""
