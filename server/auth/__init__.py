"""Who is it, and what may they do.

token or nothing ──Authenticator──▶ Identity ──Tickets──▶ single-use ticket ──▶ Identity on a socket
                                        │
                                     may(identity, action, resource)   deny by default
"""
