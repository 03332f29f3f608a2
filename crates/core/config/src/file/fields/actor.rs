//! The fields of an actor of a deployment.

use super::{NO_CODE, NO_RAY_NODES};
use crate::file::kind::{COUNT, Field, Kind, NOT_NEGATIVE, Object};

/// Of Ray's actors the one that a router here does the work of, as code and files name it.
const CAPACITY_QUEUES: [&str; 2] = [
    "ray.serve.experimental.capacity_queue.CapacityQueue",
    "tyndall.serve.experimental.capacity_queue.CapacityQueue",
];

/// Variables that an actor gets from the server, as under Ray.
pub(in crate::file) const RESERVED_VARIABLES: [&str; 4] = [
    "RAY_SERVE_INTERNAL_DEPLOYMENT_APP_NAME",
    "RAY_SERVE_INTERNAL_DEPLOYMENT_NAME",
    "RAY_SERVE_INTERNAL_DEPLOYMENT_ACTOR_NAME",
    "RAY_SERVE_INTERNAL_DEPLOYMENT_CODE_VERSION",
];

const OF_THE_SERVER: &str = "the server names it, starts it again, and ends it with its deployment";
const WITH_REPLICAS: &str =
    "write it under ray_actor_options of the deployment: an actor runs where its replicas do";

/// Whether the class is that of an actor which its router does without.
pub(in crate::file) fn is_capacity_queue(class: &str) -> bool {
    CAPACITY_QUEUES.contains(&class.replace(':', ".").as_str())
}

pub(super) static DEPLOYMENT_ACTOR: Object = Object {
    name: "DeploymentActorConfig",
    is_open: false,
    fields: &[
        Field::new("name", Kind::Text, "", "by which replicas ask for it").required(),
        Field::new("actor_class", Kind::ImportPath, "", "a class in Python").required(),
        Field::new("init_args", Kind::List(&Kind::Any), "[]", "what it is made from"),
        Field::new("init_kwargs", Kind::Map, "{}", "the same, by name"),
        Field::new("actor_options", Kind::Object(&OPTIONS), "{}", "what it needs"),
    ],
};

static OPTIONS: Object = Object {
    name: "DeploymentActorOptions",
    is_open: true,
    fields: &[
        Field::new("num_cpus", NOT_NEGATIVE, "0", "CPUs of the actor").nullable(),
        Field::new("num_gpus", NOT_NEGATIVE, "0", "GPUs, also fractions").nullable(),
        Field::new("memory", NOT_NEGATIVE, "null", "bytes"),
        Field::new("resources", Kind::Amounts, "{}", "other resources").nullable(),
        Field::new(
            "max_concurrency",
            COUNT,
            "null",
            "calls that it works on at a time; null: 1, of a class with async methods 1000",
        ),
        Field::new(
            "max_pending_calls",
            Kind::Either(&[Kind::Whole(-1, -1), COUNT]),
            "-1",
            "calls of one process that are under way, more are refused; -1: 10000",
        ),
        Field::new(
            "runtime_env",
            Kind::Object(&ACTOR_ENV),
            "{}",
            "environment of its code; env_vars are joined with the deployment's",
        )
        .nullable(),
        Field::new("name", Kind::Text, "null", "Ray's name of it").ignored(OF_THE_SERVER),
        Field::new("namespace", Kind::Text, "null", "Ray's name of its names")
            .ignored(OF_THE_SERVER),
        Field::new("lifetime", Kind::Text, "null", "when it ends").ignored(OF_THE_SERVER),
        Field::new("get_if_exists", Kind::Bool, "false", "whether it may be there already")
            .ignored(OF_THE_SERVER),
        Field::new("max_restarts", Kind::Whole(-1, 1_000_000_000), "0", "restarts by Ray")
            .ignored(OF_THE_SERVER),
        Field::new("max_task_retries", Kind::Whole(-1, 1_000_000_000), "0", "tries of a call")
            .ignored("a call that was under way fails: what it did is not known"),
        Field::new("accelerator_type", Kind::Text, "null", "kind of GPU").ignored(NO_RAY_NODES),
        Field::new("label_selector", Kind::Texts, "null", "labels of the node")
            .ignored(NO_RAY_NODES),
        Field::new("fallback_strategy", Kind::List(&Kind::Map), "null", "other labels")
            .ignored(NO_RAY_NODES),
        Field::new("scheduling_strategy", Kind::Any, "null", "how it lies on nodes")
            .ignored(NO_RAY_NODES),
        Field::new("concurrency_groups", Kind::Any, "null", "methods that go side by side")
            .refused("leave it out: all methods share max_concurrency"),
    ],
};

static ACTOR_ENV: Object = Object {
    name: "DeploymentActorRuntimeEnv",
    is_open: true,
    fields: &[
        Field::new("env_vars", Kind::Variables, "{}", "added to the environment of the actor"),
        Field::new("working_dir", Kind::Text, "null", "where the code runs").refused(WITH_REPLICAS),
        Field::new("py_modules", Kind::List(&Kind::Text), "null", "what it may import")
            .refused(WITH_REPLICAS),
        Field::new("pip", Kind::Any, "null", "packages to install").ignored(NO_CODE),
        Field::new("uv", Kind::Any, "null", "packages to install").ignored(NO_CODE),
        Field::new("conda", Kind::Any, "null", "an environment to make").ignored(NO_CODE),
        Field::new("image_uri", Kind::Text, "null", "a container to run in").ignored(NO_CODE),
        Field::new("container", Kind::Map, "null", "a container to run in").ignored(NO_CODE),
    ],
};
