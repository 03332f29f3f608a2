"""What `serve.status` gives: statuses of proxies, applications, deployments and replicas, by Ray Serve's names.

Records of tasks are here too, where Ray has them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from .config import EncodingType, LoggingConfig, TracingConfig
from .context import ReplicaRank

if TYPE_CHECKING:
    from ._tasks import AsyncCapability, CeleryAdapterConfig, TaskProcessorAdapter, TaskProcessorConfig, TaskResult

__all__ = [
    "ApplicationStatus",
    "ApplicationStatusOverview",
    "AsyncCapability",
    "CeleryAdapterConfig",
    "DeploymentStatus",
    "DeploymentStatusOverview",
    "DeploymentStatusTrigger",
    "EncodingType",
    "LoggingConfig",
    "ProxyStatus",
    "ReplicaRank",
    "ReplicaState",
    "ServeStatus",
    "TaskProcessorAdapter",
    "TaskProcessorConfig",
    "TaskResult",
    "TracingConfig",
]

_OF_TASKS = ("AsyncCapability", "CeleryAdapterConfig", "TaskProcessorAdapter", "TaskProcessorConfig", "TaskResult")


def __getattr__(name: str) -> Any:
    """Those of tasks are loaded by who asks for them: replicas have this module, and few of them have tasks."""
    if name in _OF_TASKS:
        from . import _tasks

        return getattr(_tasks, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class ApplicationStatus(str, Enum):
    NOT_STARTED = "NOT_STARTED"
    DEPLOYING = "DEPLOYING"
    DEPLOY_FAILED = "DEPLOY_FAILED"
    RUNNING = "RUNNING"
    UNHEALTHY = "UNHEALTHY"
    DELETING = "DELETING"


class DeploymentStatus(str, Enum):
    UPDATING = "UPDATING"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    DEPLOY_FAILED = "DEPLOY_FAILED"
    UPSCALING = "UPSCALING"
    DOWNSCALING = "DOWNSCALING"


class DeploymentStatusTrigger(str, Enum):
    """Why a deployment has its status."""

    UNSPECIFIED = "UNSPECIFIED"
    CONFIG_UPDATE_STARTED = "CONFIG_UPDATE_STARTED"
    CONFIG_UPDATE_COMPLETED = "CONFIG_UPDATE_COMPLETED"
    UPSCALE_COMPLETED = "UPSCALE_COMPLETED"
    DOWNSCALE_COMPLETED = "DOWNSCALE_COMPLETED"
    AUTOSCALING = "AUTOSCALING"
    REPLICA_STARTUP_FAILED = "REPLICA_STARTUP_FAILED"
    DEPLOYMENT_ACTOR_FAILED = "DEPLOYMENT_ACTOR_FAILED"
    HEALTH_CHECK_FAILED = "HEALTH_CHECK_FAILED"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    DELETING = "DELETING"


class ReplicaState(str, Enum):
    STARTING = "STARTING"
    UPDATING = "UPDATING"
    RECOVERING = "RECOVERING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    PENDING_MIGRATION = "PENDING_MIGRATION"


class ProxyStatus(str, Enum):
    STARTING = "STARTING"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    DRAINING = "DRAINING"
    DRAINED = "DRAINED"


@dataclass
class DeploymentStatusOverview:
    status: DeploymentStatus
    status_trigger: DeploymentStatusTrigger
    replica_states: dict[ReplicaState, int]
    """How many replicas are in which state."""
    message: str


@dataclass
class ApplicationStatusOverview:
    status: ApplicationStatus
    message: str
    last_deployed_time_s: float
    deployments: dict[str, DeploymentStatusOverview]


@dataclass
class ServeStatus:
    """Everything that runs; empty where nothing does."""

    proxies: dict[str, ProxyStatus] = field(default_factory=dict)
    applications: dict[str, ApplicationStatusOverview] = field(default_factory=dict)
    target_capacity: float | None = None

    @classmethod
    def from_details(cls, details: Mapping[str, Any]) -> ServeStatus:
        """From what `GET /api/serve/applications/` answers."""
        return cls(
            proxies={node: ProxyStatus(proxy["status"]) for node, proxy in details["proxies"].items()},
            applications={name: _application(one) for name, one in details["applications"].items()},
            target_capacity=details.get("target_capacity"),
        )


def _application(details: Mapping[str, Any]) -> ApplicationStatusOverview:
    return ApplicationStatusOverview(
        status=ApplicationStatus(details["status"]),
        message=details["message"],
        last_deployed_time_s=details["last_deployed_time_s"],
        deployments={name: _deployment(one) for name, one in details["deployments"].items()},
    )


def _deployment(details: Mapping[str, Any]) -> DeploymentStatusOverview:
    states = Counter(ReplicaState(replica["state"]) for replica in details["replicas"])
    return DeploymentStatusOverview(
        status=DeploymentStatus(details["status"]),
        status_trigger=DeploymentStatusTrigger(details["status_trigger"]),
        replica_states=dict(states),
        message=details["message"],
    )
