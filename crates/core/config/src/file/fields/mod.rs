//! The fields of a config file.

mod actor;
mod deployment;
mod engine;
mod llm;
mod policy;
mod router;

pub(super) use actor::{RESERVED_VARIABLES, is_capacity_queue};
pub(super) use deployment::DEPLOYMENT;
pub(super) use llm::LLM_ARGS;
pub(super) use policy::{BUILT_IN_POLICIES, BuiltInPolicy, OWN_POLICIES, PolicyKind, in_python};
pub(super) use router::{Named, PREFIX_KWARGS, named};

use super::kind::{Field, Kind, Object, POSITIVE};
use engine::ENGINE;
use llm::{LLM, LLM_DEPLOYMENT};
use policy::POLICY;

const NO_CODE: &str = "nothing is installed for an application; what it needs is in its Python";
const NO_RAY_NODES: &str = "this machine is the only node";

/// What the docs and the schema begin with: all other objects are inside of these.
pub(super) static ROOTS: &[&Object] = &[
    &SERVE,
    &LLM_ARGS,
    &policy::QUEUE_LENGTH,
    &policy::TOKENS,
    &policy::TIME_TO_FIRST_TOKEN,
    &policy::SHARED_BUDGET,
];

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
            "logs of replicas, where nothing nearer says otherwise",
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
        Field::new(
            "host",
            Kind::Host,
            "\"127.0.0.1\"",
            "address of the listener; Ray's default, 0.0.0.0, lets other machines in",
        ),
        Field::new("port", Kind::Whole(0, 65_535), "8000", "0 takes any free one"),
        Field::new(
            "root_path",
            Kind::Either(&[Kind::Word(&[""]), Kind::Text]),
            "\"\"",
            "prefix that a proxy in front takes off",
        )
        .ignored("links are made from the route prefix alone"),
        Field::new("request_timeout_s", POSITIVE, "null", "seconds to the begin of an answer"),
        Field::new(
            "keep_alive_timeout_s",
            Kind::Whole(0, 86_400),
            "90",
            "seconds that an idle connection stays open",
        )
        .ignored("an idle connection costs nothing and stays until its client ends it"),
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
        Field::new(
            "port",
            Kind::Whole(0, 65_535),
            "9000",
            "port of the listener, on http_options.host; open only where there are functions, and 0 \
             is none",
        ),
        Field::new(
            "grpc_servicer_functions",
            Kind::List(&Kind::ImportPath),
            "[]",
            "import paths of `add_…_to_server` functions, which say which methods there are",
        ),
        Field::new(
            "request_timeout_s",
            POSITIVE,
            "null",
            "seconds to the end of a call; null: as long as its client waits",
        )
        .nullable(),
        Field::new("enable_reflection", Kind::Bool, "true", "whether clients may list services"),
    ],
};

static CONTROLLER: Object = Object {
    name: "ControllerOptions",
    is_open: false,
    fields: &[Field::new("runtime_env", Kind::Map, "null", "only `env_vars`")],
};

/// What the code of an application, a deployment or a model is run in.
static RUNTIME_ENV: Object = Object {
    name: "RuntimeEnv",
    is_open: true,
    fields: &[
        Field::new("env_vars", Kind::Variables, "{}", "added to the environment of replicas"),
        Field::new(
            "working_dir",
            Kind::Text,
            "null",
            "where the code runs and may import from: a directory or, in Python, a zip archive; also \
             as file:// or local://",
        ),
        Field::new(
            "py_modules",
            Kind::List(&Kind::Text),
            "null",
            "what Python may import beside it: packages, modules, zip archives and wheels",
        ),
        Field::new("pip", Kind::Any, "null", "packages").ignored(NO_CODE),
        Field::new("uv", Kind::Any, "null", "packages").ignored(NO_CODE),
        Field::new("conda", Kind::Any, "null", "packages").ignored(NO_CODE),
        Field::new("image_uri", Kind::Any, "null", "container").ignored(NO_CODE),
        Field::new("container", Kind::Any, "null", "container").ignored(NO_CODE),
    ],
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
        Field::new(
            "logs_dir",
            Kind::Text,
            "null",
            "folder for a further file of each replica in Python; all lines are in the log of the server",
        ),
        Field::new("enable_access_log", Kind::Bool, "true", "a line per request to code in Python"),
        Field::new(
            "additional_log_standard_attrs",
            Kind::List(&Kind::Text),
            "[]",
            "further attributes of Python's log records, as of `logging`",
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

/// One application: exactly one of `import_path`, `model` and `program`.
pub(super) static APPLICATION: Object = Object {
    name: "ServeApplicationSchema",
    is_open: false,
    fields: &[
        Field::new("name", Kind::Name, "\"default\"", "unique in the file"),
        Field::new("route_prefix", Kind::Route, "\"/\"", "unique in the file; null serves no HTTP")
            .nullable(),
        Field::new(
            "import_path",
            Kind::ImportPath,
            "",
            "what builds it: tyndall.llm:build_openai_app, or code in Python",
        ),
        Field::new(
            "model",
            Kind::Either(&[Kind::Text, Kind::Object(&LLM)]),
            "",
            "a model: its Hugging Face id or path, or all about it",
        ),
        Field::new(
            "engine_kwargs",
            Kind::Object(&ENGINE),
            "",
            "arguments of the engine, beside a model that is a text",
        ),
        Field::new(
            "deployment_config",
            Kind::Object(&LLM_DEPLOYMENT),
            "",
            "options of the deployment, beside a model that is a text",
        ),
        Field::new("program", Kind::Text, "", "path of an executable that has the deployments"),
        Field::new("runtime_env", Kind::Object(&RUNTIME_ENV), "{}", "environment of its code"),
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
        Field::new("args", Kind::Map, "{}", "arguments of what builds it"),
        Field::new("logging_config", Kind::Object(&LOGGING), "null", "logs of its replicas"),
        Field::new(
            "external_scaler_enabled",
            Kind::Bool,
            "false",
            "whether the scale endpoint is open",
        ),
        Field::new(
            "tyndall",
            Kind::Object(&deployment::TYNDALL_OF_ALL),
            "{}",
            "options that Ray does not have; those of a deployment win",
        ),
    ],
};

/// Names that Ray had before, and what they are called now.
pub(super) static RENAMED: &[(&str, &str)] = &[
    ("max_concurrent_queries", "max_ongoing_requests"),
    ("target_num_ongoing_requests_per_replica", "target_ongoing_requests"),
];

/// What a model's application is built by in Ray, where deployments are overridden by name.
pub(super) static LLM_INGRESS: &str = "OpenAiIngress";

/// What builds an application of language models.
pub(super) static LLM_BUILDERS: &[&str] =
    &["tyndall.llm:build_openai_app", "ray.serve.llm:build_openai_app"];
