//! The fields of a config file.

use super::kind::{COUNT, Field, Kind, NOT_NEGATIVE, Object, POSITIVE};

const NO_LOOKS: &str = "counts are exact and pushed at every change: nothing is sampled";
const NO_RAY_NODES: &str = "this machine is the only node";

/// The whole file.
pub(super) static SERVE: Object = Object {
    name: "ServeDeploySchema",
    is_open: true,
    fields: &[
        Field::new(
            "proxy_location",
            Kind::Word(&["EveryNode", "HeadOnly", "Disabled", "NoServer"]),
            "\"EveryNode\"",
            "on which nodes HTTP is served",
        )
        .ignored("a machine has one proxy"),
        Field::new("http_options", Kind::Object(&HTTP), "{}", "the HTTP listener").nullable(),
        Field::new("grpc_options", Kind::Object(&GRPC), "{}", "the gRPC listener").nullable(),
        Field::new(
            "controller_options",
            Kind::Object(&CONTROLLER),
            "null",
            "the controller's environment",
        )
        .ignored("the controller runs no code of yours"),
        Field::new(
            "logging_config",
            Kind::Object(&LOGGING),
            "null",
            "logs of all, where nothing nearer says otherwise",
        ),
        Field::new("tracing_config", Kind::Object(&TRACING), "null", "export of spans")
            .ignored("spans are not exported"),
        Field::new("applications", Kind::List(&Kind::Object(&APPLICATION)), "", "what is served")
            .required(),
        Field::new(
            "target_capacity",
            Kind::Number { least: 0.0, most: 100.0, above: false },
            "null",
            "percent of all replica counts",
        ),
    ],
};

static HTTP: Object = Object {
    name: "HTTPOptionsSchema",
    is_open: true,
    fields: &[
        Field::new("host", Kind::Text, "\"0.0.0.0\"", "address of the listener"),
        Field::new("port", Kind::Whole(0, 65_535), "8000", "0 takes any free one"),
        Field::new(
            "root_path",
            Kind::Either(&[Kind::Word(&[""]), Kind::Text]),
            "\"\"",
            "prefix that a proxy in front takes off",
        ),
        Field::new("request_timeout_s", POSITIVE, "null", "seconds to the begin of an answer"),
        Field::new(
            "keep_alive_timeout_s",
            Kind::Whole(0, 86_400),
            "90",
            "seconds that an idle connection stays open",
        ),
        Field::new("ssl_keyfile", Kind::Text, "null", "key of TLS")
            .refused("end TLS in front of the proxy"),
        Field::new("ssl_certfile", Kind::Text, "null", "certificate of TLS")
            .refused("end TLS in front of the proxy"),
        Field::new("ssl_keyfile_password", Kind::Text, "null", "password of the key")
            .refused("end TLS in front of the proxy"),
        Field::new("ssl_ca_certs", Kind::Text, "null", "who signs clients")
            .refused("end TLS in front of the proxy"),
    ],
};

static GRPC: Object = Object {
    name: "gRPCOptionsSchema",
    is_open: true,
    fields: &[
        Field::new("port", Kind::Whole(0, 65_535), "9000", "port of the listener")
            .ignored("it opens only where functions are given"),
        Field::new(
            "grpc_servicer_functions",
            Kind::List(&Kind::ImportPath),
            "[]",
            "import paths of `add_…_to_server` functions",
        ),
        Field::new("request_timeout_s", POSITIVE, "null", "seconds to the end of a call"),
        Field::new("enable_reflection", Kind::Bool, "true", "whether clients may list services"),
    ],
};

static CONTROLLER: Object = Object {
    name: "ControllerOptions",
    is_open: false,
    fields: &[Field::new("runtime_env", Kind::Map, "null", "only `env_vars`")],
};

static LOGGING: Object = Object {
    name: "LoggingConfig",
    is_open: false,
    fields: &[
        Field::new("encoding", Kind::Word(&["TEXT", "JSON"]), "\"TEXT\"", "form of the lines"),
        Field::new(
            "log_level",
            Kind::Either(&[
                Kind::Word(&["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]),
                Kind::Whole(0, 100),
            ]),
            "\"INFO\"",
            "the least that is written",
        ),
        Field::new("logs_dir", Kind::Text, "null", "folder of log files"),
        Field::new("enable_access_log", Kind::Bool, "true", "a line per request"),
        Field::new(
            "additional_log_standard_attrs",
            Kind::List(&Kind::Text),
            "[]",
            "further attributes of Python's log records",
        ),
    ],
};

static TRACING: Object = Object {
    name: "TracingConfig",
    is_open: false,
    fields: &[
        Field::new("enabled", Kind::Bool, "false", "whether spans are made"),
        Field::new("exporter_import_path", Kind::ImportPath, "null", "what exports them"),
        Field::new(
            "sampling_ratio",
            Kind::Number { least: 0.0, most: 1.0, above: false },
            "0.01",
            "share of requests",
        ),
    ],
};

/// One application.
pub(super) static APPLICATION: Object = Object {
    name: "ServeApplicationSchema",
    is_open: false,
    fields: &[
        Field::new("name", Kind::Text, "\"default\"", "unique in the file"),
        Field::new("route_prefix", Kind::Route, "\"/\"", "unique in the file; null serves no HTTP")
            .nullable(),
        Field::new(
            "import_path",
            Kind::ImportPath,
            "",
            "the application, or a function that builds it",
        )
        .required(),
        Field::new("runtime_env", Kind::Map, "{}", "environment of its code"),
        Field::new("host", Kind::Text, "", "of single-application files")
            .refused("write http_options.host at the top"),
        Field::new("port", Kind::Whole(0, 65_535), "", "of single-application files")
            .refused("write http_options.port at the top"),
        Field::new(
            "deployments",
            Kind::List(&Kind::Object(&DEPLOYMENT)),
            "[]",
            "options that replace those of the code",
        ),
        Field::new(
            "autoscaling_policy",
            Kind::Object(&POLICY),
            "null",
            "one policy for all of its deployments",
        ),
        Field::new("args", Kind::Map, "{}", "arguments of the function that builds it"),
        Field::new("logging_config", Kind::Object(&LOGGING), "null", "logs of its deployments"),
        Field::new(
            "external_scaler_enabled",
            Kind::Bool,
            "false",
            "whether the scale endpoint is open",
        ),
    ],
};

/// Options that all deployments have.
const MAX_QUEUED_REQUESTS: Field = Field::new(
    "max_queued_requests",
    Kind::Either(&[Kind::Whole(-1, -1), COUNT]),
    "-1",
    "requests that wait for a replica; -1 is no bound",
);
const AUTOSCALING_CONFIG: Field =
    Field::new("autoscaling_config", Kind::Object(&AUTOSCALING), "null", "how many replicas, when");
const GRACEFUL_SHUTDOWN_WAIT_LOOP_S: Field = Field::new(
    "graceful_shutdown_wait_loop_s",
    NOT_NEGATIVE,
    "2",
    "seconds between looks at a draining replica",
)
.ignored("the end of the last request is an event");
const GRACEFUL_SHUTDOWN_TIMEOUT_S: Field = Field::new(
    "graceful_shutdown_timeout_s",
    NOT_NEGATIVE,
    "20",
    "seconds that a draining replica has",
);
const HEALTH_CHECK_PERIOD_S: Field =
    Field::new("health_check_period_s", POSITIVE, "10", "seconds between health checks");
const LOGGING_CONFIG: Field =
    Field::new("logging_config", Kind::Object(&LOGGING), "null", "its logs");
const REQUEST_ROUTER_CONFIG: Field =
    Field::new("request_router_config", Kind::Object(&ROUTER), "null", "how replicas are chosen");

/// Options of one deployment.
pub(super) static DEPLOYMENT: Object = Object {
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
        Field::new(
            "backpressure_config",
            Kind::Object(&BACKPRESSURE),
            "null",
            "the answer when the queue is full",
        ),
        Field::new("user_config", Kind::Any, "null", "handed to `reconfigure`, without a restart"),
        AUTOSCALING_CONFIG,
        GRACEFUL_SHUTDOWN_WAIT_LOOP_S,
        GRACEFUL_SHUTDOWN_TIMEOUT_S,
        HEALTH_CHECK_PERIOD_S,
        Field::new("health_check_timeout_s", POSITIVE, "30", "seconds of one health check"),
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
        Field::new(
            "max_replicas_per_node",
            Kind::Whole(1, 100),
            "null",
            "replicas of it on one node",
        ),
        LOGGING_CONFIG,
        REQUEST_ROUTER_CONFIG,
        Field::new(
            "gang_scheduling_config",
            Kind::Object(&GANG),
            "null",
            "replicas that start together",
        )
        .refused("leave it out: groups of replicas are not there yet"),
        Field::new(
            "deployment_actors",
            Kind::List(&Kind::Map),
            "null",
            "actors beside the replicas",
        )
        .refused("leave it out: there are no actors"),
        Field::new(
            "rolling_update_percentage",
            Kind::Number { least: 0.0, most: 1.0, above: true },
            "0.2",
            "share of replicas that an update replaces at a time",
        ),
        Field::new(
            "max_surge_percent",
            Kind::Whole(0, 100),
            "0",
            "replicas beyond the target during an update",
        ),
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
            "requests per replica that it aims at",
        ),
        Field::new("metrics_interval_s", POSITIVE, "10", "seconds between reports")
            .ignored(NO_LOOKS),
        Field::new("look_back_period_s", POSITIVE, "30", "window of the average").ignored(NO_LOOKS),
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
            "of the window",
        )
        .ignored(NO_LOOKS),
        Field::new("policy", Kind::Object(&POLICY), "null", "another way to decide"),
    ],
};

static POLICY: Object = Object {
    name: "AutoscalingPolicy",
    is_open: false,
    fields: &[
        Field::new(
            "policy_function",
            Kind::ImportPath,
            "\"ray.serve.autoscaling_policy:default_autoscaling_policy\"",
            "what decides",
        ),
        Field::new("policy_kwargs", Kind::Map, "{}", "arguments of a policy that is a class"),
    ],
};

static ACTOR: Object = Object {
    name: "RayActorOptionsSchema",
    is_open: false,
    fields: &[
        Field::new(
            "runtime_env",
            Kind::Map,
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

static ROUTER: Object = Object {
    name: "RequestRouterConfig",
    is_open: false,
    fields: &[
        Field::new(
            "request_router_class",
            Kind::ImportPath,
            "\"ray.serve._private.request_router:PowerOfTwoChoicesRequestRouter\"",
            "what chooses",
        ),
        Field::new("request_router_kwargs", Kind::Map, "{}", "its arguments"),
        Field::new(
            "request_routing_stats_period_s",
            POSITIVE,
            "10",
            "seconds between a replica's own figures",
        )
        .ignored("figures come with every answer"),
        Field::new(
            "request_routing_stats_timeout_s",
            POSITIVE,
            "30",
            "seconds of one such question",
        )
        .ignored("figures come with every answer"),
    ],
};

static GANG: Object = Object {
    name: "GangSchedulingConfig",
    is_open: true,
    fields: &[Field::new("gang_size", COUNT, "", "replicas of a gang").required()],
};

/// Arguments of `build_openai_app`.
pub(super) static LLM_ARGS: Object = Object {
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
pub(super) static LLM: Object = Object {
    name: "LLMConfig",
    is_open: false,
    fields: &[
        Field::new("model_loading_config", Kind::Object(&LOADING), "", "which model").required(),
        Field::new("llm_engine", Kind::Word(&["vLLM"]), "\"vLLM\"", "the engine")
            .ignored("models run on the engine inside"),
        Field::new(
            "engine_kwargs",
            Kind::Map,
            "{}",
            "arguments of vLLM's engine, such as max_model_len",
        ),
        Field::new("accelerator_type", Kind::Text, "null", "kind of GPU").ignored(NO_RAY_NODES),
        Field::new("accelerator_config", Kind::Object(&ACCELERATOR), "null", "cpu or gpu"),
        Field::new(
            "placement_group_config",
            Kind::Map,
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
        Field::new("runtime_env", Kind::Map, "null", "environment, such as env_vars.HF_TOKEN"),
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
        Field::new("model_id", Kind::Text, "", "what clients call it").required(),
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

static ACCELERATOR: Object = Object {
    name: "AcceleratorConfig",
    is_open: true,
    fields: &[Field::new("kind", Kind::Word(&["cpu", "gpu"]), "", "of device").required()],
};

/// As [`DEPLOYMENT`], without what the engine decides.
static LLM_DEPLOYMENT: Object = Object {
    name: "LLMConfig.deployment_config",
    is_open: false,
    fields: &[
        Field::new("name", Kind::Name, "null", "of the deployment; null: from the model's"),
        Field::new(
            "num_replicas",
            Kind::Either(&[COUNT, Kind::Word(&["auto"])]),
            "null",
            "or auto: from 1 to 100 by load",
        ),
        Field::new("ray_actor_options", Kind::Object(&ACTOR), "{}", "what a replica needs"),
        Field::new(
            "max_ongoing_requests",
            COUNT,
            "1000000000",
            "requests that a replica has at a time",
        ),
        AUTOSCALING_CONFIG,
        MAX_QUEUED_REQUESTS,
        Field::new("user_config", Kind::Any, "null", "handed to `reconfigure`")
            .ignored("the engine has none"),
        HEALTH_CHECK_PERIOD_S,
        Field::new("health_check_timeout_s", POSITIVE, "10", "seconds of one health check"),
        GRACEFUL_SHUTDOWN_WAIT_LOOP_S,
        GRACEFUL_SHUTDOWN_TIMEOUT_S,
        LOGGING_CONFIG,
        REQUEST_ROUTER_CONFIG,
        Field::new("placement_group_bundles", Kind::Any, "", "of an engine")
            .refused("write placement_group_config beside deployment_config"),
        Field::new("placement_group_strategy", Kind::Any, "", "of an engine")
            .refused("write placement_group_config beside deployment_config"),
    ],
};

/// Names that Ray had before, and what they are called now.
pub(super) static RENAMED: &[(&str, &str)] = &[
    ("max_concurrent_queries", "max_ongoing_requests"),
    ("target_num_ongoing_requests_per_replica", "target_ongoing_requests"),
];

/// What builds an application of language models.
pub(super) static LLM_BUILDERS: &[&str] =
    &["tyndall.llm:build_openai_app", "ray.serve.llm:build_openai_app"];
