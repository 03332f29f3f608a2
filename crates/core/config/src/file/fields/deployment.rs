//! The fields of a deployment.

use super::actor::DEPLOYMENT_ACTOR;
use super::policy::POLICY;
use super::router::ROUTER;
use super::{LOGGING, NO_RAY_NODES, RUNTIME_ENV};
use crate::file::kind::{COUNT, Field, Kind, NOT_NEGATIVE, Object, POSITIVE};

const NO_LOOKS: &str = "counts are exact and pushed at every change: nothing is sampled";

/// Options that all deployments have.
pub(super) const MAX_QUEUED_REQUESTS: Field = Field::new(
    "max_queued_requests",
    Kind::Either(&[Kind::Whole(-1, -1), COUNT]),
    "1024",
    "requests that wait for a replica; -1 is as many as can be counted",
);
pub(super) const AUTOSCALING_CONFIG: Field =
    Field::new("autoscaling_config", Kind::Object(&AUTOSCALING), "null", "how many replicas, when");
pub(super) const GRACEFUL_SHUTDOWN_WAIT_LOOP_S: Field = Field::new(
    "graceful_shutdown_wait_loop_s",
    NOT_NEGATIVE,
    "2",
    "seconds between looks at a draining replica",
)
.ignored("the end of the last request is an event");
pub(super) const GRACEFUL_SHUTDOWN_TIMEOUT_S: Field = Field::new(
    "graceful_shutdown_timeout_s",
    NOT_NEGATIVE,
    "20",
    "seconds that a draining replica has",
);
pub(super) const HEALTH_CHECK_PERIOD_S: Field =
    Field::new("health_check_period_s", POSITIVE, "10", "seconds between health checks");
pub(super) const HEALTH_CHECK_TIMEOUT_S: Field =
    Field::new("health_check_timeout_s", POSITIVE, "30", "seconds of one health check");
pub(super) const BACKPRESSURE_CONFIG: Field = Field::new(
    "backpressure_config",
    Kind::Object(&BACKPRESSURE),
    "null",
    "the answer when the queue is full",
);
pub(super) const MAX_REPLICAS_PER_NODE: Field =
    Field::new("max_replicas_per_node", Kind::Whole(1, 100), "null", "replicas of it on one node");
pub(super) const ROLLING_UPDATE_PERCENTAGE: Field = Field::new(
    "rolling_update_percentage",
    Kind::Number { least: 0.0, most: 1.0, above: true },
    "0.2",
    "share of replicas that an update replaces at a time",
);
pub(super) const MAX_SURGE_PERCENT: Field = Field::new(
    "max_surge_percent",
    Kind::Whole(0, 100),
    "0",
    "replicas beyond the target during an update",
);
pub(super) const TYNDALL_OPTIONS: Field =
    Field::new("tyndall", Kind::Object(&TYNDALL), "{}", "options that Ray does not have");
const PRELOAD: Field = Field::new(
    "preload",
    Kind::List(&Kind::Module),
    "[]",
    "modules of Python that processes import which wait to become replicas",
);
const WARM_PROCESSES: Field = Field::new(
    "warm_processes",
    Kind::Whole(0, 64),
    "null",
    "how many such processes wait; null: 1 where preload names something, else 0",
);
pub(super) const LOGGING_CONFIG: Field =
    Field::new("logging_config", Kind::Object(&LOGGING), "null", "its logs");
pub(super) const REQUEST_ROUTER_CONFIG: Field =
    Field::new("request_router_config", Kind::Object(&ROUTER), "null", "how replicas are chosen");

/// Options of one deployment.
pub(in crate::file) static DEPLOYMENT: Object = Object {
    name: "DeploymentSchema",
    is_open: false,
    fields: &[
        Field::new("name", Kind::Name, "", "of a deployment in the application").required(),
        Field::new(
            "num_replicas",
            Kind::Either(&[COUNT, Kind::Word(&["auto"])]),
            "1",
            "or auto: from 1 to 100 by load",
        )
        .nullable(),
        Field::new("max_ongoing_requests", COUNT, "5", "requests that a replica has at a time"),
        MAX_QUEUED_REQUESTS,
        BACKPRESSURE_CONFIG,
        Field::new("user_config", Kind::Any, "null", "handed to `reconfigure`, without a restart"),
        AUTOSCALING_CONFIG,
        GRACEFUL_SHUTDOWN_WAIT_LOOP_S,
        GRACEFUL_SHUTDOWN_TIMEOUT_S,
        HEALTH_CHECK_PERIOD_S,
        HEALTH_CHECK_TIMEOUT_S,
        Field::new("ray_actor_options", Kind::Object(&ACTOR), "{}", "what a replica needs")
            .nullable(),
        Field::new(
            "placement_group_bundles",
            Kind::List(&Kind::Amounts),
            "null",
            "resources of a replica and its workers",
        ),
        Field::new(
            "placement_group_strategy",
            Kind::Word(&["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]),
            "null",
            "how bundles lie on nodes",
        )
        .ignored(NO_RAY_NODES),
        Field::new(
            "placement_group_bundle_label_selector",
            Kind::List(&Kind::Texts),
            "null",
            "labels of the nodes of bundles",
        )
        .ignored(NO_RAY_NODES),
        MAX_REPLICAS_PER_NODE,
        LOGGING_CONFIG,
        REQUEST_ROUTER_CONFIG,
        Field::new(
            "gang_scheduling_config",
            Kind::Object(&GANG),
            "null",
            "replicas that start and end together",
        ),
        Field::new(
            "deployment_actors",
            Kind::List(&Kind::Object(&DEPLOYMENT_ACTOR)),
            "null",
            "objects in processes of their own, which replicas share",
        ),
        ROLLING_UPDATE_PERCENTAGE,
        MAX_SURGE_PERCENT,
        TYNDALL_OPTIONS,
    ],
};

static BACKPRESSURE: Object = Object {
    name: "BackpressureConfig",
    is_open: false,
    fields: &[
        Field::new(
            "status_code",
            Kind::Either(&[Kind::Whole(503, 503), Kind::Whole(429, 429)]),
            "503",
            "of a refused request",
        ),
        Field::new("retry_after_s", NOT_NEGATIVE, "null", "value of Retry-After"),
    ],
};

/// Options that Ray does not have.
static TYNDALL: Object = Object {
    name: "TyndallOptions",
    is_open: false,
    fields: &[
        Field::new("pinned", Kind::Bool, "false", "whether it never gives way to another model"),
        Field::new(
            "priority",
            Kind::Whole(-1_000_000, 1_000_000),
            "0",
            "larger ones stay longer when memory is short",
        ),
        Field::new(
            "min_residency_s",
            NOT_NEGATIVE,
            "0",
            "seconds after a wake in which it does not give way",
        ),
        Field::new(
            "automatic_rollback",
            Kind::Bool,
            "true",
            "whether a version that does not start gives way to the one before",
        ),
        Field::new("startup_timeout_s", POSITIVE, "600", "seconds to readiness"),
        Field::new(
            "request_timeout_s",
            POSITIVE,
            "null",
            "seconds to the begin of an answer; null: http_options.request_timeout_s, else 600",
        ),
        Field::new(
            "max_constructor_retry_count",
            COUNT,
            "20",
            "failed starts in a row after which a version is given up",
        ),
        PRELOAD,
        WARM_PROCESSES,
    ],
};

/// Those of them that an application has for all of its deployments.
pub(super) static TYNDALL_OF_ALL: Object = Object {
    name: "TyndallApplicationOptions",
    is_open: false,
    fields: &[PRELOAD, WARM_PROCESSES],
};

/// When replicas come and go.
pub(super) static AUTOSCALING: Object = Object {
    name: "AutoscalingConfig",
    is_open: false,
    fields: &[
        Field::new(
            "min_replicas",
            Kind::Whole(0, 1_000_000_000),
            "1",
            "never fewer; 0 lets it go when idle",
        ),
        Field::new(
            "initial_replicas",
            Kind::Whole(0, 1_000_000_000),
            "null",
            "at the first deploy",
        ),
        Field::new("max_replicas", COUNT, "1", "never more; 100 with num_replicas auto"),
        Field::new(
            "target_ongoing_requests",
            POSITIVE,
            "2",
            "requests per replica that it aims at; of a model half of what it has at a time",
        ),
        Field::new("metrics_interval_s", POSITIVE, "10", "seconds between reports")
            .ignored(NO_LOOKS),
        Field::new("look_back_period_s", POSITIVE, "30", "seconds over which load is taken"),
        Field::new("upscale_delay_s", NOT_NEGATIVE, "30", "seconds that more load must last"),
        Field::new("downscale_delay_s", NOT_NEGATIVE, "600", "seconds that less load must last"),
        Field::new(
            "downscale_to_zero_delay_s",
            NOT_NEGATIVE,
            "null",
            "seconds without a request before the last goes; null: downscale_delay_s",
        ),
        Field::new("upscaling_factor", POSITIVE, "null", "share of the way up per decision"),
        Field::new("downscaling_factor", POSITIVE, "null", "share of the way down per decision"),
        Field::new("smoothing_factor", POSITIVE, "1", "old name of both factors"),
        Field::new("upscale_smoothing_factor", POSITIVE, "null", "old name of upscaling_factor"),
        Field::new(
            "downscale_smoothing_factor",
            POSITIVE,
            "null",
            "old name of downscaling_factor",
        ),
        Field::new(
            "aggregation_function",
            Kind::Word(&["mean", "max", "min"]),
            "\"mean\"",
            "what of the window counts",
        ),
        Field::new("policy", Kind::Object(&POLICY), "null", "another way to decide"),
    ],
};

pub(super) static ACTOR: Object = Object {
    name: "RayActorOptionsSchema",
    is_open: false,
    fields: &[
        Field::new(
            "runtime_env",
            Kind::Object(&RUNTIME_ENV),
            "{}",
            "environment of its code; env_vars are joined with the application's",
        ),
        Field::new("num_cpus", NOT_NEGATIVE, "1", "CPUs of a replica").nullable(),
        Field::new("num_gpus", NOT_NEGATIVE, "0", "GPUs, also fractions").nullable(),
        Field::new("memory", NOT_NEGATIVE, "null", "bytes"),
        Field::new("resources", Kind::Amounts, "{}", "other resources"),
        Field::new("accelerator_type", Kind::Text, "null", "kind of GPU").ignored(NO_RAY_NODES),
        Field::new("label_selector", Kind::Texts, "null", "labels of the node")
            .ignored(NO_RAY_NODES),
        Field::new("fallback_strategy", Kind::List(&Kind::Map), "null", "other labels")
            .ignored(NO_RAY_NODES),
    ],
};

static GANG: Object = Object {
    name: "GangSchedulingConfig",
    is_open: false,
    fields: &[
        Field::new(
            "gang_size",
            COUNT,
            "",
            "replicas of a gang; numbers of replicas are multiples of it",
        )
        .required(),
        Field::new(
            "gang_placement_strategy",
            Kind::Word(&["PACK", "SPREAD"]),
            "\"PACK\"",
            "how a gang lies on nodes; one machine is one node",
        ),
        Field::new(
            "runtime_failure_policy",
            Kind::Word(&["RESTART_GANG"]),
            "\"RESTART_GANG\"",
            "what becomes of a gang that loses a replica",
        ),
    ],
};
