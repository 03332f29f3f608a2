//! Raw values to a complete, checked configuration of `tyndall run`.

use crate::cors::cors;
use crate::error::ConfigError;
use crate::grpc::{self, GrpcSettings};
use crate::node::{self, NodeResources};
use crate::origin::{Effective, Environment, Origin, RawSettings, Reader, Sourced};
use crate::parse;
use crate::role::isa;
use crate::settings::setting;
use core::net::{IpAddr, SocketAddr};
use std::fmt;
use std::path::PathBuf;
use tyndall_parsers::{ReasoningFormat, ToolFormat};
use tyndall_types::protocol::{
    AutoscalingConfig, ChatConfig, DeploymentConfig, GenerateDefaults, ModelConfig, Quantization,
    Workload,
};
use tyndall_types::{CorsConfig, DeploymentId, DeploymentName, SamplingDefaults};

/// Replicas on one machine beyond which a number is a typing error.
const MAX_REPLICAS: u32 = 1000;
/// The plain Ray Serve example's `MAX_REPLICAS`.
const AUTO_MAX_REPLICAS: u32 = 2;
const MIN_TARGET: f64 = 0.1;
const MAX_GPUS: f64 = 64.0;

/// A checked configuration: nothing in it can fail later for being out of range.
#[derive(Debug, Clone, PartialEq)]
pub struct RunConfig {
    /// What to serve.
    pub target: Sourced<String>,
    /// The public model id, where it is not the target's own.
    pub name: Option<DeploymentName>,
    /// Where it listens.
    pub network: Network,
    /// Where gRPC is served; absent is nowhere.
    pub grpc: Option<GrpcSettings>,
    /// Which pages of other origins may use it; absent is none.
    pub cors: Option<CorsConfig>,
    /// Whom it lets in.
    pub api_keys: ApiKeys,
    /// How many replicas, when.
    pub scaling: Scaling,
    /// How much may wait, how long.
    pub limits: Limits,
    /// How the model runs.
    pub model: ModelSettings,
    /// Defaults of `/generate`.
    pub generate: GenerateDefaults,
    /// Where deployments are kept; absent keeps nothing.
    pub state_dir: Option<PathBuf>,
    /// What all replicas share.
    pub node: NodeResources,
    /// What runs applications in Python; absent is that of the environment.
    pub python: Option<PathBuf>,
    /// Form of the logs.
    pub log_format: LogFormat,
    /// What is logged.
    pub log_filter: String,
    /// Every setting with its origin, in the order of the table.
    pub effective: Vec<Effective>,
}

/// Where a server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// For clients.
    pub public: SocketAddr,
    /// For status, delete and shutdown.
    pub admin: SocketAddr,
}

/// Where the keys of clients come from; without any, no key is wanted.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ApiKeys {
    /// Their file.
    pub file: Option<PathBuf>,
    /// Keys without limits, as clients send them.
    pub secrets: Vec<String>,
}

impl ApiKeys {
    /// Whether no key is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.file.is_none() && self.secrets.is_empty()
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let num_secrets = self.secrets.len();
        f.debug_struct("ApiKeys").field("file", &self.file).field("secrets", &num_secrets).finish()
    }
}

/// How many replicas, when.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaling {
    /// Never fewer.
    pub min_replicas: u32,
    /// Never more; at least `min_replicas` and 1.
    pub max_replicas: u32,
    /// Requests per replica; at least 0.1.
    pub target_ongoing_requests: f64,
    /// Seconds without work before replicas go.
    pub idle_timeout_s: f64,
    /// Seconds that more load must last.
    pub upscale_delay_s: f64,
}

/// How much may wait, how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Requests that a replica has at a time.
    pub max_ongoing_requests: u32,
    /// Requests that wait for a replica.
    pub max_queued_requests: u32,
    /// Seconds to the begin of an answer.
    pub request_timeout_s: f64,
    /// Seconds between SIGTERM and SIGKILL of a replica.
    pub graceful_timeout_s: f64,
    /// Seconds to readiness.
    pub startup_timeout_s: f64,
}

/// How a model runs.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSettings {
    /// Further names by which clients may ask for it.
    pub aliases: Vec<String>,
    /// Tokens; absent is what the checkpoint says.
    pub max_model_len: Option<u32>,
    /// Of one replica; absent is planned from the machine.
    pub memory_bytes: Option<u64>,
    /// Sequences in one step.
    pub max_num_seqs: u32,
    /// Tokens in one step; at least `max_num_seqs`.
    pub max_num_batched_tokens: u32,
    /// Absent is every usable core.
    pub num_threads: Option<u32>,
    /// Tokens are computed in advance where that pays.
    pub speculation: bool,
    /// What weights are rounded to.
    pub quantization: Quantization,
    /// How conversations are written.
    pub chat: ChatConfig,
    /// Sampling where a request says nothing.
    pub sampling: SamplingDefaults,
}

/// Form of the logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object per line.
    Json,
}

/// Reads and checks every setting.
///
/// # Errors
/// The first [`ConfigError`], in the order of the table.
pub fn resolve(raw: &RawSettings, env: &Environment) -> Result<RunConfig, ConfigError> {
    let mut reader = Reader::new(raw, env);
    let target = reader.read("target", non_empty)?;
    let (network, api_keys) = network(&mut reader)?;
    let name = reader.read_optional("name", |text| {
        DeploymentName::new(text).map_err(|_| NAME_ACCEPTED.to_owned())
    })?;
    let grpc = grpc::read(&mut reader, network.public.ip())?;
    let cors = cors(&mut reader)?;
    let (mut scaling, is_auto) = scaling(&mut reader)?;
    let limits = limits(&mut reader)?;
    let model = model(&mut reader)?;
    if is_auto && model.num_threads.is_none() {
        scaling.max_replicas = scaling.min_replicas.max(1);
    }
    let generate = generate(&mut reader)?;
    let state_dir = reader.read_optional("state_dir", |text| Ok(PathBuf::from(text)))?;
    let node = node::read(&mut reader)?;
    let python = reader.read_optional("python", |text| Ok(PathBuf::from(text)))?;
    let log_format = reader.read("log_format", log_format)?.value;
    let log_filter = reader.read("log", non_empty)?.value;
    isa(env)?;
    Ok(RunConfig {
        target,
        name,
        network,
        grpc,
        cors,
        api_keys,
        scaling,
        limits,
        model,
        generate,
        state_dir,
        node,
        python,
        log_format,
        log_filter,
        effective: reader.effective,
    })
}

impl RunConfig {
    /// The deployment of a model that was found: `model_id` is what clients call it.
    #[must_use]
    pub fn deployment(
        &self,
        name: DeploymentName,
        model_id: String,
        path: PathBuf,
    ) -> DeploymentConfig {
        let Self { scaling, limits, model, .. } = self;
        DeploymentConfig {
            id: DeploymentId::single(name),
            code_version: String::new(),
            num_replicas: None,
            backpressure: Default::default(),
            health_check: Default::default(),
            max_constructor_retry_count: 20,
            rollout: Default::default(),
            resources: Default::default(),
            residency: Default::default(),
            env_vars: Default::default(),
            user_config: Default::default(),
            warm: Default::default(),
            deployment_actors: Vec::new(),
            request_router: None,
            gang_scheduling: None,
            prefix_affinity: None,
            workload: Workload::Model(ModelConfig {
                id: model_id,
                aliases: model.aliases.clone(),
                task: Default::default(),
                sampling: model.sampling,
                path,
                max_model_len: model.max_model_len,
                memory_budget_bytes: model.memory_bytes,
                max_num_seqs: model.max_num_seqs,
                max_num_batched_tokens: model.max_num_batched_tokens,
                num_threads: model.num_threads,
                speculation: model.speculation,
                quantization: model.quantization,
                chat: model.chat.clone(),
                generate: self.generate,
            }),
            autoscaling: AutoscalingConfig {
                min_replicas: scaling.min_replicas,
                max_replicas: scaling.max_replicas,
                target_ongoing_requests: scaling.target_ongoing_requests,
                upscale_delay_s: scaling.upscale_delay_s,
                downscale_delay_s: scaling.idle_timeout_s,
                downscale_to_zero_delay_s: scaling.idle_timeout_s,
                initial_replicas: None,
                look_back_period_s: 0.0,
                aggregation_function: Default::default(),
                upscaling_factor: 1.0,
                downscaling_factor: 1.0,
                policy: Default::default(),
                python_policy: None,
            },
            max_ongoing_requests: limits.max_ongoing_requests,
            max_queued_requests: limits.max_queued_requests,
            request_timeout_s: limits.request_timeout_s,
            graceful_shutdown_timeout_s: limits.graceful_timeout_s,
            startup_timeout_s: limits.startup_timeout_s,
        }
    }
}

const NAME_ACCEPTED: &str = "a name of 1 to 128 letters, digits, '.', '_', '-' or '/' that starts \
                             with a letter or digit";

fn non_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("a text of some length".to_owned()) } else { Ok(text.to_owned()) }
}

fn network(reader: &mut Reader<'_>) -> Result<(Network, ApiKeys), ConfigError> {
    let host = reader.read("host", parse::host)?;
    let port = reader.read("port", parse::port)?.value;
    let admin_host = reader.read("admin_host", parse::host)?;
    let admin_port = reader.read("admin_port", parse::port)?.value;
    let api_keys = ApiKeys {
        file: reader.read_optional("api_keys", |text| Ok(PathBuf::from(text)))?,
        secrets: reader.read_secret("api_key", parse::api_keys)?,
    };
    let insecure = reader.read("insecure", parse::switch)?.value;
    check_exposure("host", &host, insecure || !api_keys.is_empty())?;
    check_exposure("admin_host", &admin_host, insecure)?;
    if port == admin_port && port != 0 {
        return Err(ConfigError::SamePort { port });
    }
    let network = Network {
        public: SocketAddr::new(host.value, port),
        admin: SocketAddr::new(admin_host.value, admin_port),
    };
    Ok((network, api_keys))
}

fn check_exposure(key: &str, host: &Sourced<IpAddr>, is_wanted: bool) -> Result<(), ConfigError> {
    if is_wanted || host.value.is_loopback() {
        return Ok(());
    }
    Err(ConfigError::Exposed {
        from: from(key, host.origin),
        host: host.value.to_string(),
        takes_keys: key == "host",
    })
}

/// And whether the number of replicas is left to us.
fn scaling(reader: &mut Reader<'_>) -> Result<(Scaling, bool), ConfigError> {
    let min_replicas = reader.read("min_replicas", parse::whole(0..=MAX_REPLICAS))?.value;
    let max_replicas = reader.read("max_replicas", parse::auto_or(1..=MAX_REPLICAS))?.value;
    let target = reader.read("target_ongoing_requests", parse::number(0.0..=1e6))?.value;
    let scaling = Scaling {
        min_replicas,
        max_replicas: max_replicas.unwrap_or(AUTO_MAX_REPLICAS).max(min_replicas),
        target_ongoing_requests: target.max(MIN_TARGET),
        idle_timeout_s: reader.read("idle_timeout", parse::parse_seconds)?.value,
        upscale_delay_s: reader.read("upscale_delay", parse::parse_seconds)?.value,
    };
    Ok((scaling, max_replicas.is_none()))
}

fn limits(reader: &mut Reader<'_>) -> Result<Limits, ConfigError> {
    let count = || parse::whole(1..=1_000_000);
    Ok(Limits {
        max_ongoing_requests: reader.read("max_ongoing_requests", count())?.value,
        max_queued_requests: reader.read("max_queued_requests", count())?.value,
        request_timeout_s: reader.read("request_timeout", parse::positive_seconds)?.value,
        graceful_timeout_s: reader.read("graceful_timeout", parse::parse_seconds)?.value,
        startup_timeout_s: reader.read("startup_timeout", parse::positive_seconds)?.value,
    })
}

fn model(reader: &mut Reader<'_>) -> Result<ModelSettings, ConfigError> {
    let max_model_len = reader.read_optional("max_model_len", parse::tokens)?;
    let memory_bytes = reader.read_optional("memory", parse::parse_bytes)?;
    let seqs = reader.read("max_num_seqs", parse::whole(1..=4096))?;
    let tokens = reader.read("max_num_batched_tokens", parse::whole(1..=1_000_000))?;
    let threads = reader.read("threads", parse::number(0.0..=4096.0))?.value;
    let speculation = reader.read("speculation", parse::auto_or_off)?.value;
    let quantization = reader.read("quantization", str::parse::<Quantization>)?.value;
    let chat = ChatConfig {
        tool_call_parser: reader.read_optional("tool_call_parser", tool_call_parser)?,
        reasoning_parser: reader.read_optional("reasoning_parser", reasoning_parser)?,
        template: reader.read_optional("chat_template", non_empty)?,
    };
    let aliases = reader.read_optional("aliases", aliases)?.unwrap_or_default();
    let sampling =
        reader.read_optional("override_generation_config", sampling)?.unwrap_or_default();
    let gpus = reader.read("num_gpus_per_replica", parse::number(0.0..=MAX_GPUS))?;
    if gpus.value > 0.0 {
        let from = from("num_gpus_per_replica", gpus.origin);
        return Err(ConfigError::NoGpu { from, gpus: gpus.value.to_string() });
    }
    if tokens.value < seqs.value {
        return Err(ConfigError::StepTooSmall {
            tokens_from: from("max_num_batched_tokens", tokens.origin),
            max_num_batched_tokens: tokens.value,
            seqs_from: from("max_num_seqs", seqs.origin),
            max_num_seqs: seqs.value,
        });
    }
    Ok(ModelSettings {
        max_model_len,
        memory_bytes,
        max_num_seqs: seqs.value,
        max_num_batched_tokens: tokens.value,
        num_threads: (threads > 0.0).then_some(threads.ceil() as u32),
        speculation,
        quantization,
        chat,
        aliases,
        sampling,
    })
}

fn aliases(text: &str) -> Result<Vec<String>, String> {
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    if names.iter().all(|name| DeploymentName::new(name).is_ok()) {
        Ok(names)
    } else {
        Err(format!("names with commas between, each {NAME_ACCEPTED}"))
    }
}

fn sampling(text: &str) -> Result<SamplingDefaults, String> {
    let wrong = |why: String| {
        format!("a JSON object of sampling fields, such as {{\"temperature\": 0.2}}: {why}")
    };
    let read: SamplingDefaults =
        serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    read.check().map_err(wrong).map(|()| read)
}

fn tool_call_parser(name: &str) -> Result<String, String> {
    let there = || ToolFormat::all().map(ToolFormat::name).collect::<Vec<_>>().join(", ");
    ToolFormat::from_name(name).map(|_| name.to_owned()).map_err(|_| there())
}

fn reasoning_parser(name: &str) -> Result<String, String> {
    let there = || ReasoningFormat::all().map(ReasoningFormat::name).collect::<Vec<_>>().join(", ");
    ReasoningFormat::from_name(name).map(|_| name.to_owned()).map_err(|_| there())
}

fn generate(reader: &mut Reader<'_>) -> Result<GenerateDefaults, ConfigError> {
    let top_p = |text: &str| {
        let accepted = "a number above 0 and up to 1";
        text.parse().ok().filter(|p| *p > 0.0 && *p <= 1.0).ok_or_else(|| accepted.to_owned())
    };
    Ok(GenerateDefaults {
        max_new_tokens: reader.read("max_new_tokens", parse::whole(1..=100_000_000))?.value,
        temperature: reader.read("temperature", parse::number(0.0..=100.0))?.value as f32,
        top_p: reader.read("top_p", top_p)?.value,
    })
}

pub(crate) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("text or json".to_owned()),
    }
}

pub(crate) fn from(key: &str, origin: Origin) -> &'static str {
    crate::origin::from(setting(key).expect("keys in this crate are in the table"), origin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::SETTINGS;
    use proptest::prelude::*;

    fn config(flags: &[(&str, &str)], env: &[(&str, &str)]) -> Result<RunConfig, ConfigError> {
        let mut raw = RawSettings::default();
        for (key, value) in flags {
            raw.set(key, *value).unwrap();
        }
        resolve(&raw, &env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let c = config(&[], &[]).unwrap();
        assert_eq!(c.target.value, "facebook/opt-125m");
        assert_eq!(c.network.public.to_string(), "127.0.0.1:8000");
        assert_eq!(c.network.admin.to_string(), "127.0.0.1:8265");
        let d = c.deployment(DeploymentName::new("m").unwrap(), "m".into(), "/m".into());
        assert_eq!((d.autoscaling.min_replicas, d.autoscaling.max_replicas), (0, 1));
        assert_eq!(d.autoscaling.target_ongoing_requests, 1.0);
        assert_eq!(d.autoscaling.downscale_to_zero_delay_s, 60.0);
        assert_eq!((d.max_ongoing_requests, d.max_queued_requests), (256, 1024));
        assert_eq!((d.request_timeout_s, d.graceful_shutdown_timeout_s), (600.0, 20.0));
        let model = d.workload.model().unwrap();
        assert_eq!((model.max_num_seqs, model.max_num_batched_tokens), (64, 512));
        assert_eq!((model.num_threads, model.max_model_len), (None, None));
        assert_eq!(model.quantization, Quantization::None);
        let defaults = GenerateDefaults { max_new_tokens: 256, temperature: 0.7, top_p: 0.9 };
        assert_eq!(model.generate, defaults);
        assert_eq!(c.effective.len(), SETTINGS.len());
        assert!(c.effective.iter().all(|line| line.origin == Origin::Default));
    }

    #[test]
    fn the_nearest_origin_wins() {
        let both = [("TYNDALL_MAX_REPLICAS", "4"), ("MAX_REPLICAS", "5"), ("MIN_REPLICAS", " ")];
        let of = |c: RunConfig| {
            let line = c.effective.iter().find(|line| line.key == "max_replicas").unwrap().clone();
            (c.scaling.max_replicas, line.origin)
        };
        assert_eq!(
            of(config(&[("max_replicas", "3")], &both).unwrap()),
            (3, Origin::Flag("--max-replicas"))
        );
        assert_eq!(
            of(config(&[], &both).unwrap()),
            (4, Origin::Environment("TYNDALL_MAX_REPLICAS"))
        );
        assert_eq!(of(config(&[], &both[1..]).unwrap()), (5, Origin::Environment("MAX_REPLICAS")));
        assert_eq!(config(&[], &both).unwrap().scaling.min_replicas, 0, "blank is unset");
    }

    #[test]
    fn a_replica_that_takes_all_cores_is_alone_unless_asked() {
        let most = |raw: &[(&str, &str)]| config(raw, &[]).unwrap().scaling.max_replicas;
        assert_eq!(most(&[]), 1);
        assert_eq!(most(&[("threads", "1")]), 2);
        assert_eq!(most(&[("min_replicas", "3")]), 3);
        assert_eq!(most(&[("max_replicas", "2")]), 2);
    }

    #[test]
    fn the_variables_of_the_seed_mean_what_they_say() {
        let c = config(
            &[],
            &[
                ("MODEL_ID", "org/m"),
                ("MAX_NEW_TOKENS", "64"),
                ("TEMPERATURE", "0"),
                ("TOP_P", "1"),
                ("NUM_GPUS_PER_REPLICA", "0.0"),
                ("NUM_CPUS_PER_REPLICA", "1.5"),
                ("MIN_REPLICAS", "3"),
                ("MAX_REPLICAS", "1"),
                ("TARGET_ONGOING_REQUESTS", "0.01"),
                ("RAY_SERVE_AUTOSCALER_IDLE_TIMEOUT_S", "120"),
            ],
        )
        .unwrap();
        assert_eq!(c.target.value, "org/m");
        assert_eq!(c.target.origin, Origin::Environment("MODEL_ID"));
        assert_eq!(c.model.num_threads, Some(2));
        assert_eq!((c.scaling.min_replicas, c.scaling.max_replicas), (3, 3));
        assert_eq!(c.scaling.target_ongoing_requests, 0.1);
        assert_eq!(c.scaling.idle_timeout_s, 120.0);
        assert_eq!((c.generate.max_new_tokens, c.generate.temperature), (64, 0.0));
    }

    #[test]
    fn bad_values_name_their_origin_and_what_is_accepted() {
        let check = |flags: &[(&str, &str)], env: &[(&str, &str)], expected: &str| {
            assert_eq!(config(flags, env).unwrap_err().to_string(), expected);
        };
        check(
            &[],
            &[("MAX_REPLICAS", "two")],
            "MAX_REPLICAS is \"two\", which is not auto or a whole number from 1 to 1000",
        );
        check(
            &[("port", "70000")],
            &[],
            "--port is \"70000\", which is not a port from 0 to 65535, where 0 takes any free one",
        );
        check(
            &[],
            &[("TARGET_ONGOING_REQUESTS", "NaN")],
            "TARGET_ONGOING_REQUESTS is \"NaN\", which is not a number from 0 to 1000000",
        );
        check(
            &[("quantization", "int5")],
            &[],
            "--quantization is \"int5\", which is not none, int8 or int4",
        );
        check(&[], &[("TOP_P", "0")], "TOP_P is \"0\", which is not a number above 0 and up to 1");
        check(
            &[],
            &[("NUM_GPUS_PER_REPLICA", "1")],
            "NUM_GPUS_PER_REPLICA asks for 1 GPUs per replica, and this build runs models on CPUs \
             only",
        );
        check(
            &[("host", "0.0.0.0")],
            &[],
            "--host 0.0.0.0 lets other machines in, and nothing asks who they are",
        );
        check(
            &[("port", "9"), ("admin_port", "9")],
            &[],
            "the public and the admin listener both want port 9",
        );
        check(
            &[("max_num_seqs", "600")],
            &[],
            "--max-num-batched-tokens is 512, less than --max-num-seqs with 600: a step could not \
             serve every sequence",
        );
        assert!(config(&[("name", "a b")], &[]).is_err());
        assert!(RawSettings::default().set("nothing", "").is_err());
    }

    #[test]
    fn other_machines_are_let_in_only_on_request() {
        let open = config(&[("host", "0.0.0.0"), ("insecure", "true")], &[]).unwrap();
        assert!(!open.network.public.ip().is_loopback());
        assert!(config(&[("host", "::1")], &[]).is_ok());
        assert!(config(&[("host", "0.0.0.0"), ("api_keys", "keys.toml")], &[]).is_ok());
        assert!(config(&[("host", "0.0.0.0")], &[("TYNDALL_API_KEY", "s3cret")]).is_ok());
        assert!(config(&[("admin_host", "0.0.0.0"), ("api_key", "s3cret")], &[]).is_err());
        assert!(config(&[("admin_host", "0.0.0.0")], &[]).is_err());
        assert!(config(&[("port", "0"), ("admin_port", "0")], &[]).is_ok());
    }

    #[test]
    fn keys_are_read_and_never_told() {
        let c = config(&[("api_key", "one, s3cret")], &[("TYNDALL_API_KEY", "three")]).unwrap();
        assert_eq!(c.api_keys.secrets, ["one", "s3cret"]);
        let line = c.effective.iter().find(|line| line.key == "api_key").unwrap();
        assert_eq!((line.value.as_str(), line.origin), ("***", Origin::Flag("--api-key")));
        assert!(!format!("{c:?}").contains("s3cret"));
        let error = config(&[("api_key", "one,se cret")], &[]).unwrap_err().to_string();
        assert_eq!(
            error,
            "--api-key is \"***\", which is not a key, or several with commas between, without \
             spaces and of visible ASCII letters"
        );
        assert!(config(&[], &[]).unwrap().api_keys.is_empty());
    }

    proptest! {
        #[test]
        fn no_text_breaks_a_setting(row in 0..SETTINGS.len(), text in ".{0,12}") {
            let key = SETTINGS[row].key;
            if let Ok(c) = config(&[(key, &text)], &[]) {
                prop_assert!(c.scaling.max_replicas >= c.scaling.min_replicas.max(1));
                prop_assert!(c.scaling.target_ongoing_requests >= MIN_TARGET);
                prop_assert!(c.limits.request_timeout_s > 0.0);
                prop_assert!(c.generate.top_p > 0.0 && c.generate.top_p <= 1.0);
            }
        }
    }
}
