//! The table of settings: the only place that names a flag, a variable or a default.

/// Under which heading a setting is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Where it listens, what it is called.
    Serving,
    /// The listener of gRPC.
    Grpc,
    /// Which pages of other origins may use it.
    Browsers,
    /// How many replicas, when.
    Scaling,
    /// How much may wait, how long.
    Limits,
    /// How the model runs.
    Model,
    /// Defaults of `/generate`.
    Generate,
    /// Logs and state.
    Process,
}

impl Group {
    /// The heading in `--help`.
    #[must_use]
    pub fn heading(self) -> &'static str {
        match self {
            Self::Serving => "Serving",
            Self::Grpc => "gRPC",
            Self::Browsers => "Pages of other origins",
            Self::Scaling => "Scaling",
            Self::Limits => "Limits",
            Self::Model => "Model",
            Self::Generate => "Defaults of /generate",
            Self::Process => "Process",
        }
    }
}

/// One setting of `tyndall run`.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name in code and in the printed configuration.
    pub key: &'static str,
    /// Its flag; the target is an argument.
    pub flag: &'static str,
    /// Its variable.
    pub env: &'static str,
    /// The variable of the Ray Serve examples that means the same.
    pub seed_env: Option<&'static str>,
    /// As text, through the same parser; empty is off.
    pub default: &'static str,
    /// What stands for the value in the help; empty for a switch.
    pub value_name: &'static str,
    /// Where it is shown.
    pub group: Group,
    /// What it does, its unit, and why this default.
    pub help: &'static str,
}

impl Setting {
    /// It takes no value on the command line.
    #[must_use]
    pub fn is_switch(&self) -> bool {
        self.value_name.is_empty()
    }
}

/// The row of a key.
#[must_use]
pub fn setting(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|row| row.key == key)
}

macro_rules! settings {
    ($($group:ident: {
        $($key:ident $flag:literal $env:literal $(= $seed:literal)?, $default:literal $value:literal, $help:literal;)*
    })*) => {
        /// Every setting, in the order of the help.
        pub const SETTINGS: &[Setting] = &[$($(Setting {
            key: stringify!($key),
            flag: $flag,
            env: $env,
            seed_env: settings!(@seed $($seed)?),
            default: $default,
            value_name: $value,
            group: Group::$group,
            help: $help,
        },)*)*];
    };
    (@seed $seed:literal) => { Some($seed) };
    (@seed) => { None };
}

settings! {
    Serving: {
        target "TARGET" "TYNDALL_TARGET" = "MODEL_ID", "facebook/opt-125m" "TARGET",
            "What to serve: `demo`, a directory, a Hugging Face id, a config file, a program, or the import path of an application in Python, such as main:app";
        host "--host" "TYNDALL_HOST", "127.0.0.1" "IP",
            "Address for clients; another than loopback wants API keys or --insecure";
        port "--port" "TYNDALL_PORT", "8000" "PORT",
            "Port for clients; 0 takes any free one and prints it";
        admin_host "--admin-host" "TYNDALL_ADMIN_HOST", "127.0.0.1" "IP",
            "Address for status, delete and shutdown; another than loopback wants --insecure";
        admin_port "--admin-port" "TYNDALL_ADMIN_PORT", "8265" "PORT",
            "Port for status, delete and shutdown; 0 takes any free one and prints it";
        name "--name" "TYNDALL_NAME", "" "NAME",
            "Public model id; else the Hugging Face id or the directory's name";
        aliases "--aliases" "TYNDALL_ALIASES", "" "NAMES",
            "Further model ids by which clients may ask for it, with commas between, such as gpt-4o,claude-sonnet-4-5";
        api_keys "--api-keys" "TYNDALL_API_KEYS", "" "FILE",
            "File with the keys of clients and their limits, read again when it changes; without keys any value is accepted";
        api_key "--api-key" "TYNDALL_API_KEY", "" "KEY",
            "A key without limits, several with commas between; better as the variable, since others see the flags of a process";
        insecure "--insecure" "TYNDALL_INSECURE", "" "",
            "Allow addresses that other machines can reach, and let anybody in where there are no API keys";
    }
    Grpc: {
        grpc_port "--grpc-port" "TYNDALL_GRPC_PORT", "9000" "PORT",
            "Port for clients of gRPC; open only with --grpc-servicer-functions, and 0 is none";
        grpc_servicer_functions "--grpc-servicer-functions" "TYNDALL_GRPC_SERVICER_FUNCTIONS", "" "PATHS",
            "Import paths of the generated functions that say which methods there are, such as greeter_pb2_grpc:add_GreeterServicer_to_server; with commas between, or the flag several times";
        grpc_request_timeout "--grpc-request-timeout" "TYNDALL_GRPC_REQUEST_TIMEOUT", "" "SECONDS",
            "How long a call of gRPC may take; else as long as its client waits";
        grpc_disable_reflection "--grpc-disable-reflection" "TYNDALL_GRPC_DISABLE_REFLECTION", "" "",
            "Do not tell clients which methods there are";
    }
    Browsers: {
        cors_origins "--cors-origins" "TYNDALL_CORS_ORIGINS", "" "ORIGINS",
            "Origins whose pages may use the routes of models, such as https://a.example,http://localhost:3000; * is every one. None by default: any page that somebody opens could otherwise use a server on loopback";
        cors_methods "--cors-methods" "TYNDALL_CORS_METHODS", "*" "METHODS",
            "Methods that they may use, such as GET,POST; * is every one";
        cors_headers "--cors-headers" "TYNDALL_CORS_HEADERS", "*" "HEADERS",
            "Headers that they may send, such as authorization,content-type; * is every one";
        cors_credentials "--cors-credentials" "TYNDALL_CORS_CREDENTIALS", "" "",
            "Let their requests carry cookies and logins of the browser; wants origins by name";
        cors_max_age "--cors-max-age" "TYNDALL_CORS_MAX_AGE", "600" "SECONDS",
            "How long a browser may keep what it was told before a request; browsers have bounds of their own, such as 2 h";
    }
    Scaling: {
        min_replicas "--min-replicas" "TYNDALL_MIN_REPLICAS" = "MIN_REPLICAS", "0" "N",
            "Replicas that always run; 0 lets the model go when idle and the first request wake it";
        max_replicas "--max-replicas" "TYNDALL_MAX_REPLICAS" = "MAX_REPLICAS", "auto" "N",
            "Replicas at most; raised to --min-replicas where smaller. They share the machine's memory. auto is 2, or 1 where a replica computes on all cores, as without --threads: a second one would only take half of them";
        target_ongoing_requests "--target-ongoing-requests" "TYNDALL_TARGET_ONGOING_REQUESTS" = "TARGET_ONGOING_REQUESTS", "1.0" "N",
            "Requests per replica that scaling aims at; raised to 0.1. One replica batches many, so a higher value saves replicas";
        idle_timeout "--idle-timeout" "TYNDALL_IDLE_TIMEOUT" = "RAY_SERVE_AUTOSCALER_IDLE_TIMEOUT_S", "60" "SECONDS",
            "Time without work before replicas go, down to --min-replicas";
        upscale_delay "--upscale-delay" "TYNDALL_UPSCALE_DELAY", "1" "SECONDS",
            "How long more load must last before replicas are added; the first one never waits. Counts are exact and starts fast, so less than the 30 s of Ray does";
    }
    Limits: {
        max_ongoing_requests "--max-ongoing-requests" "TYNDALL_MAX_ONGOING_REQUESTS", "256" "N",
            "Requests that a replica takes at a time; those above its batch wait in its engine";
        max_queued_requests "--max-queued-requests" "TYNDALL_MAX_QUEUED_REQUESTS", "1024" "N",
            "Requests that wait for a replica; more are refused with 503";
        request_timeout "--request-timeout" "TYNDALL_REQUEST_TIMEOUT", "600" "SECONDS",
            "A request that has not begun to answer by then ends with 504, a wake counts; so long may an answer pause";
        graceful_timeout "--graceful-timeout" "TYNDALL_GRACEFUL_TIMEOUT", "20" "SECONDS",
            "How long requests may go on when their replica is to stop";
        startup_timeout "--startup-timeout" "TYNDALL_STARTUP_TIMEOUT", "600" "SECONDS",
            "A replica that is not ready by then counts as failed";
    }
    Model: {
        max_model_len "--max-model-len" "TYNDALL_MAX_MODEL_LEN", "" "TOKENS",
            "Largest prompt plus output, such as 4096, 4k or 4K; else what the model says";
        memory "--memory" "TYNDALL_MEMORY", "" "BYTES",
            "Memory of one replica for weights and KV cache, such as 8GiB; else its share of what is free";
        max_num_seqs "--max-num-seqs" "TYNDALL_MAX_NUM_SEQS", "64" "N",
            "Sequences in one step of the engine";
        max_num_batched_tokens "--max-num-batched-tokens" "TYNDALL_MAX_NUM_BATCHED_TOKENS", "512" "N",
            "Tokens in one step at most; beside streams a long prompt gets fewer, as measured, so that their gaps stay below twice the usual";
        threads "--threads" "TYNDALL_THREADS" = "NUM_CPUS_PER_REPLICA", "0" "N",
            "Cores that a replica computes on, rounded up; 0 is all of them";
        speculation "--speculation" "TYNDALL_SPECULATION", "auto" "WHEN",
            "Compute tokens that followed the same tokens before in advance, where measurements say that it pays: auto or off. The output is the same";
        quantization "--quantization" "TYNDALL_QUANTIZATION", "none" "TYPE",
            "Round weights to int8 or int4 at the first load and keep them beside the model: faster and smaller, a little less exact; none uses them as they are";
        tool_call_parser "--tool-call-parser" "TYNDALL_TOOL_CALL_PARSER", "" "NAME",
            "Form in which the model writes tool calls, by the name of vLLM's parser, such as hermes; else what its files tell";
        reasoning_parser "--reasoning-parser" "TYNDALL_REASONING_PARSER", "" "NAME",
            "Form in which the model writes reasoning, by the name of vLLM's parser, such as qwen3; else what its files tell";
        chat_template "--chat-template" "TYNDALL_CHAT_TEMPLATE", "" "FILE",
            "Chat template in Jinja instead of the model's own: a file, or the template itself where it has {{ or {% in it";
        override_generation_config "--override-generation-config" "TYNDALL_OVERRIDE_GENERATION_CONFIG", "" "JSON",
            "Sampling where a request does not say, such as {\"temperature\": 0.2}, instead of what the model's generation_config.json says";
        num_gpus_per_replica "--num-gpus-per-replica" "TYNDALL_NUM_GPUS_PER_REPLICA" = "NUM_GPUS_PER_REPLICA", "0" "N",
            "GPUs of a replica; this build runs on CPUs and takes only 0";
    }
    Generate: {
        max_new_tokens "--max-new-tokens" "TYNDALL_MAX_NEW_TOKENS" = "MAX_NEW_TOKENS", "256" "N",
            "Output tokens where a request does not say";
        temperature "--temperature" "TYNDALL_TEMPERATURE" = "TEMPERATURE", "0.7" "T",
            "Temperature where a request does not say; 0 is greedy";
        top_p "--top-p" "TYNDALL_TOP_P" = "TOP_P", "0.9" "P",
            "Nucleus where a request does not say, above 0 and up to 1";
    }
    Process: {
        state_dir "--state-dir" "TYNDALL_STATE_DIR", "" "DIR",
            "Where deployments are kept over restarts; else they end with the command";
        node_memory "--node-memory" "TYNDALL_NODE_MEMORY", "" "BYTES",
            "Memory of all replicas of this machine together, such as 16GiB; models that do not fit take turns. Else what is free at the start";
        num_gpus "--num-gpus" "TYNDALL_NUM_GPUS", "auto" "N",
            "GPUs for replicas of code: a number, or auto for those of CUDA_VISIBLE_DEVICES, else those that the driver shows";
        num_cpus "--num-cpus" "TYNDALL_NUM_CPUS", "" "N",
            "CPUs that all replicas together may ask for; else any number of them";
        resources "--resources" "TYNDALL_RESOURCES", "" "JSON",
            "Other resources that replicas may ask for, as a JSON object such as {\"disk\": 2}";
        python "--python" "TYNDALL_PYTHON", "" "PYTHON",
            "Python that runs applications in Python: its path, or a name on the PATH; else that of $VIRTUAL_ENV, else python3 beside this program, else the PATH's";
        log_format "--log-format" "TYNDALL_LOG_FORMAT", "text" "FORMAT",
            "Form of the logs on standard error: text or json";
        log "--log" "TYNDALL_LOG", "info" "FILTER",
            "What is logged: a level such as warn, or parts of it such as info,tyndall_proxy=debug";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_variables_follow_from_the_key() {
        for row in SETTINGS {
            if row.key != "target" {
                assert_eq!(row.flag, format!("--{}", row.key.replace('_', "-")));
            }
            assert_eq!(row.env, format!("TYNDALL_{}", row.key.to_uppercase()));
            assert!(!row.help.ends_with('.'), "{}", row.key);
            assert_eq!(SETTINGS.iter().filter(|other| other.key == row.key).count(), 1);
        }
        assert!(setting("nothing").is_none());
    }

    #[test]
    fn every_variable_of_the_seed_is_there() {
        let mut seeds: Vec<_> = SETTINGS.iter().filter_map(|row| row.seed_env).collect();
        seeds.sort_unstable();
        assert_eq!(
            seeds,
            [
                "MAX_NEW_TOKENS",
                "MAX_REPLICAS",
                "MIN_REPLICAS",
                "MODEL_ID",
                "NUM_CPUS_PER_REPLICA",
                "NUM_GPUS_PER_REPLICA",
                "RAY_SERVE_AUTOSCALER_IDLE_TIMEOUT_S",
                "TARGET_ONGOING_REQUESTS",
                "TEMPERATURE",
                "TOP_P",
            ]
        );
    }
}
