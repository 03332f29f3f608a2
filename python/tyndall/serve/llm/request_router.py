"""Routing of prompts by what replicas had before."""

from __future__ import annotations

from .._fates import FOR_MODELS

__all__ = ["PrefixCacheAffinityRouter"]


class PrefixCacheAffinityRouter:
    """A prompt goes to a replica of its model that had its beginning before, so that its cache may have it.

    Named as `request_router_class` in the `deployment_config` of a model. The server's proxy carries it out, so no
    process in Python chooses, and there is nothing here to call or to extend. Its arguments, `request_router_kwargs`,
    are `imbalanced_threshold`, `match_rate_threshold` and `eviction_threshold_chars`; docs/config.md says more.
    """

    def __init__(self) -> None:
        raise TypeError(FOR_MODELS)
