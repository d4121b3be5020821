"""The life of model versions while the server runs: watched, proven, tried out, promoted, rolled back.

folder ─watch─▶ settled ─trial, load─▶ candidate ─shadow | canary─▶ serving ─▶ standby ─▶ unloaded
                   └─▶ refused ◀──────────┴── judge: errors, time ──┘
"""
