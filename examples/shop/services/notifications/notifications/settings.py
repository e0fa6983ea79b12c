"""What the manifest or the environment may change."""

from __future__ import annotations

from atoll import Settings

__all__ = ["NotificationSettings"]


class NotificationSettings(Settings):
    """How often a stream looks for new messages, and how often a quiet one says that it is still there."""

    stream_pause_s: float = 0.5
    stream_heartbeat_s: float = 15.0
