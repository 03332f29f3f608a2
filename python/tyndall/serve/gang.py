"""What a replica of a gang knows of it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GangContext"]


@dataclass
class GangContext:
    """Which replica of which gang this is: the replicas that start with it and end with it."""

    gang_id: str
    rank: int
    """Its number in the gang, from 0 on."""
    world_size: int
    """Replicas of the gang."""
    member_replica_ids: list[str]
    """All of them, in the order of their ranks."""
    pg_name: str = ""
    """What Ray would call the gang's placement group; there is none."""
