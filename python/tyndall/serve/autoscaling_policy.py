"""How many replicas a deployment wants by its requests: what the server computes, as functions to name and to call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from .config import AutoscalingConfig, AutoscalingContext

__all__ = [
    "apply_app_level_autoscaling_config",
    "apply_autoscaling_config",
    "default_autoscaling_policy",
    "replica_queue_length_autoscaling_policy",
]

Policy = TypeVar("Policy", bound=Callable[..., Any])


def apply_autoscaling_config(policy: Policy) -> Policy:
    """The policy itself: factors, delays and bounds are laid over every policy's word by the server."""
    return policy


def apply_app_level_autoscaling_config(policy: Policy) -> Policy:
    """As `apply_autoscaling_config`, for a policy of an application."""
    return policy


def replica_queue_length_autoscaling_policy(ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """As many replicas as have `target_ongoing_requests` each; without any, as many as are wanted already.

    Factors, delays and bounds are laid over what a policy says.
    """
    config = ctx.config or AutoscalingConfig()
    if ctx.current_num_replicas == 0:
        return float(ctx.target_num_replicas), {}
    return ctx.total_num_requests / config.target_ongoing_requests, {}


default_autoscaling_policy = replica_queue_length_autoscaling_policy
