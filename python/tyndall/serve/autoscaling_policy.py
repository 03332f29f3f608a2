"""How many replicas a deployment wants by its requests: what the server computes, as functions to name and to call."""

from __future__ import annotations

from typing import Any

from .config import AutoscalingConfig, AutoscalingContext

__all__ = ["default_autoscaling_policy", "replica_queue_length_autoscaling_policy"]


def replica_queue_length_autoscaling_policy(ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """As many replicas as have `target_ongoing_requests` each; without any, as many as are wanted already.

    Factors, delays and bounds are laid over what a policy says.
    """
    config = ctx.config or AutoscalingConfig()
    if ctx.current_num_replicas == 0:
        return float(ctx.target_num_replicas), {}
    return ctx.total_num_requests / config.target_ongoing_requests, {}


default_autoscaling_policy = replica_queue_length_autoscaling_policy
