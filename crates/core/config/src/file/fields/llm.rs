//! The fields of language models.

use super::deployment::{
    ACTOR, AUTOSCALING_CONFIG, BACKPRESSURE_CONFIG, GRACEFUL_SHUTDOWN_TIMEOUT_S,
    GRACEFUL_SHUTDOWN_WAIT_LOOP_S, HEALTH_CHECK_PERIOD_S, HEALTH_CHECK_TIMEOUT_S, LOGGING_CONFIG,
    MAX_QUEUED_REQUESTS, MAX_REPLICAS_PER_NODE, MAX_SURGE_PERCENT, ROLLING_UPDATE_PERCENTAGE,
    TYNDALL_OPTIONS,
};
use super::engine::ENGINE;
use super::router::MODEL_ROUTER;
use super::{NO_RAY_NODES, RUNTIME_ENV};
use crate::file::kind::{COUNT, Field, Kind, Object};

/// Arguments of `build_openai_app`.
pub(in crate::file) static LLM_ARGS: Object = Object {
    name: "LLMServingArgs",
    is_open: false,
    fields: &[
        Field::new(
            "llm_configs",
            Kind::List(&Kind::Either(&[Kind::Object(&LLM), Kind::Text])),
            "",
            "models: each a map, or a YAML file of one",
        )
        .required(),
        Field::new("ingress_cls_config", Kind::Map, "{}", "another ingress class")
            .ignored("the proxy is the ingress"),
        Field::new("ingress_deployment_config", Kind::Map, "{}", "options of the ingress")
            .ignored("the proxy is the ingress"),
    ],
};

/// One model.
pub(in crate::file) static LLM: Object = Object {
    name: "LLMConfig",
    is_open: false,
    fields: &[
        Field::new("model_loading_config", Kind::Object(&LOADING), "", "which model").required(),
        Field::new("llm_engine", Kind::Word(&["vLLM"]), "\"vLLM\"", "the engine")
            .ignored("models run on the engine inside"),
        Field::new(
            "engine_kwargs",
            Kind::Object(&ENGINE),
            "{}",
            "arguments of vLLM's engine, such as max_model_len",
        ),
        Field::new("accelerator_type", Kind::Text, "null", "kind of GPU").ignored(NO_RAY_NODES),
        Field::new("accelerator_config", Kind::Object(&ACCELERATOR), "null", "cpu or gpu")
            .ignored("models run on CPUs in this build"),
        Field::new(
            "placement_group_config",
            Kind::Object(&PLACEMENT),
            "null",
            "resources of the engine's workers",
        ),
        Field::new("lora_config", Kind::Map, "null", "adapters")
            .refused("leave it out: adapters are not there yet"),
        Field::new(
            "deployment_config",
            Kind::Object(&LLM_DEPLOYMENT),
            "{}",
            "options of its deployment",
        ),
        Field::new(
            "runtime_env",
            Kind::Object(&RUNTIME_ENV),
            "null",
            "environment, such as env_vars.HF_TOKEN",
        ),
        Field::new("server_cls", Kind::Text, "null", "another server class")
            .refused("leave it out: the engine's server is built in"),
        Field::new("experimental_configs", Kind::Map, "{}", "Ray's experiments")
            .ignored("they are Ray's own"),
        Field::new(
            "log_engine_metrics",
            Kind::Bool,
            "true",
            "whether the engine's metrics are exported",
        )
        .ignored("they always are"),
        Field::new("callback_config", Kind::Map, "null", "hooks in Python")
            .refused("leave it out: no Python runs in the engine"),
    ],
};

static LOADING: Object = Object {
    name: "ModelLoadingConfig",
    is_open: false,
    fields: &[
        Field::new("model_id", Kind::Name, "", "what clients call it").required(),
        Field::new(
            "model_source",
            Kind::Either(&[Kind::Text, Kind::Map]),
            "null",
            "Hugging Face id or path; null: model_id",
        ),
        Field::new("tokenizer_source", Kind::Text, "null", "another tokenizer")
            .refused("keep the tokenizer beside the weights"),
    ],
};

static PLACEMENT: Object = Object {
    name: "PlacementGroupConfig",
    is_open: false,
    fields: &[
        Field::new("bundle_per_worker", Kind::Amounts, "null", "resources of the engine"),
        Field::new("bundles", Kind::List(&Kind::Amounts), "null", "the same, as a list"),
        Field::new(
            "strategy",
            Kind::Word(&["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]),
            "\"PACK\"",
            "how bundles lie on nodes",
        )
        .ignored(NO_RAY_NODES),
    ],
};

static ACCELERATOR: Object = Object {
    name: "AcceleratorConfig",
    is_open: true,
    fields: &[Field::new("kind", Kind::Word(&["cpu", "gpu"]), "", "of device").required()],
};

/// As `DEPLOYMENT`, without what the engine decides.
pub(super) static LLM_DEPLOYMENT: Object = Object {
    name: "LLMConfig.deployment_config",
    is_open: false,
    fields: &[
        Field::new("name", Kind::Name, "null", "of the deployment; null: from the model's"),
        Field::new(
            "num_replicas",
            Kind::Either(&[COUNT, Kind::Word(&["auto"])]),
            "1",
            "or auto: from 1 to 100 by load",
        )
        .nullable(),
        Field::new("ray_actor_options", Kind::Object(&ACTOR), "{}", "what a replica needs"),
        Field::new(
            "max_ongoing_requests",
            COUNT,
            "256",
            "requests that a replica has at a time; those above its batch wait in its engine",
        ),
        AUTOSCALING_CONFIG,
        MAX_QUEUED_REQUESTS,
        BACKPRESSURE_CONFIG,
        Field::new("user_config", Kind::Any, "null", "handed to `reconfigure`")
            .ignored("the engine has none"),
        HEALTH_CHECK_PERIOD_S,
        HEALTH_CHECK_TIMEOUT_S,
        GRACEFUL_SHUTDOWN_WAIT_LOOP_S,
        GRACEFUL_SHUTDOWN_TIMEOUT_S,
        LOGGING_CONFIG,
        Field::new(
            "request_router_config",
            Kind::Object(&MODEL_ROUTER),
            "null",
            "how replicas are chosen",
        ),
        MAX_REPLICAS_PER_NODE,
        ROLLING_UPDATE_PERCENTAGE,
        MAX_SURGE_PERCENT,
        TYNDALL_OPTIONS,
        Field::new("placement_group_bundles", Kind::Any, "", "of an engine")
            .refused("write placement_group_config beside deployment_config"),
        Field::new("placement_group_strategy", Kind::Any, "", "of an engine")
            .refused("write placement_group_config beside deployment_config"),
    ],
};
