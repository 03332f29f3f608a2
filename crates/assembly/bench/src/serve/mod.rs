//! `bench serve`: load on an OpenAI-compatible server, closed or open loop.

mod client;
mod load;
mod result;
pub(crate) mod sse;
mod workload;

pub(crate) use client::Api;

use crate::error::BenchError;
use crate::goodput::Target;
use crate::lengths::Lengths;
use crate::report::Report;
use crate::server::Server;
use crate::url::Url;
use crate::{Context, headers, roofline};
use client::Asking;
use load::Pace;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;
use workload::{Arrival, Shape};

/// What `bench serve` is asked for.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// The server, such as http://127.0.0.1:8000; without it, `tyndall run MODEL` is started
    #[arg(long)]
    pub url: Option<Url>,
    /// With --url the model's id, by default the first of /v1/models; else what to run
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Which route is asked
    #[arg(long, value_enum, default_value = "completions")]
    pub api: Api,
    /// Requests at a time; with --rate or --trace the most at a time [default: 1, or no bound]
    #[arg(long, short = 'c', value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub concurrency: Option<u32>,
    /// Open loop: so many requests per second arrive, at random (Poisson)
    #[arg(long, value_name = "PER_S", conflicts_with = "trace", value_parser = positive)]
    pub rate: Option<f64>,
    /// Open loop: arrivals as in a file of lines {"arrival_s": 0.5, "prompt_len": 128, "output_len": 64}
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Requests that are measured [default: 100, or all of the trace]
    #[arg(long, short = 'n', value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub num_requests: Option<u32>,
    /// Requests that are sent before, and not measured
    #[arg(long, default_value_t = 1)]
    pub warmup: u32,
    /// Words of each prompt: N, uniform:LOW:HIGH, normal:MEAN:DEVIATION or lognormal:MEDIAN:SIGMA
    #[arg(long, value_name = "LENGTHS", default_value = "128")]
    pub prompt_len: Lengths,
    /// Tokens of each output, likewise
    #[arg(long, value_name = "LENGTHS", default_value = "64")]
    pub output_len: Lengths,
    /// Words before each prompt that requests share, as system prompts do
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub prefix_len: u32,
    /// How many different shared beginnings there are
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub num_prefixes: u32,
    /// Generate all tokens, past the model's end token
    #[arg(long)]
    pub ignore_eos: bool,
    /// 0 is greedy
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f64,
    /// Decides prompts, lengths and arrivals
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Targets for goodput, such as ttft:500 or tpot:50 or e2el:2000, in milliseconds
    #[arg(long, value_name = "TARGET")]
    pub goodput: Vec<Target>,
    /// A request that takes longer has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 600.0, value_parser = positive)]
    pub timeout: f64,
    /// A header of every request, such as 'authorization: Bearer KEY'
    #[arg(long = "header", short = 'H', value_name = "HEADER", value_parser = headers::parse)]
    pub headers: Vec<headers::Header>,
    /// Further arguments of `tyndall run`
    #[arg(last = true, value_name = "RUN_ARGS", conflicts_with = "url")]
    pub run_args: Vec<String>,
}

/// A number above zero.
pub(crate) fn positive(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    let is_good = value > 0.0 && value <= 1e9;
    is_good.then_some(value).ok_or_else(|| format!("{text} is not above 0 and at most 1e9"))
}

/// Runs the load and reports.
pub(crate) fn run(args: &ServeArgs, context: &Context) -> Result<Report, BenchError> {
    let mut report = Report::new("serve", &context.command);
    let arrivals = arrivals(args)?;
    let server = match &args.url {
        Some(_) => None,
        None => {
            // Before there is a server that the measurement would disturb.
            report.ceilings = roofline::ceilings(None, &roofline::quick())?;
            let target = args.model.as_deref().unwrap_or("demo");
            let arguments = one_replica(&args.run_args);
            Some(Server::start(&context.executable, target, &arguments)?)
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| BenchError::of("failed to start a runtime", &error))?;
    let (asking, outcomes) = runtime.block_on(async {
        let asking = asking(args, server.as_ref()).await?;
        let warmup = shape(args, args.seed ^ 0x5741_524d);
        let warmup = warmup.plan(&workload::at_once(args.warmup as usize));
        let pace = pace(args);
        let warmed = load::run("warm-up", &asking, warmup, closed(pace)).await;
        load::first_failure(&warmed)?;
        let planned = shape(args, args.seed).plan(&arrivals);
        Ok::<_, BenchError>((asking.clone(), load::run("requests", &asking, planned, pace).await))
    })?;
    if outcomes.iter().all(|outcome| outcome.result.is_err()) {
        load::first_failure(&outcomes)?;
    }
    describe(args, &asking, outcomes.len(), &mut report);
    result::fill(&mut report, &outcomes, &args.goodput, args.api);
    Ok(report)
}

fn arrivals(args: &ServeArgs) -> Result<Vec<Arrival>, BenchError> {
    let most = args.num_requests.map_or(usize::MAX, |n| n as usize);
    let count = args.num_requests.unwrap_or(100) as usize;
    Ok(match (&args.trace, args.rate) {
        (Some(path), _) => {
            let mut arrivals = workload::read_trace(path)?;
            arrivals.truncate(most);
            arrivals
        }
        (None, Some(rate)) => shape(args, args.seed).poisson(count, rate),
        (None, None) => workload::at_once(count),
    })
}

fn shape(args: &ServeArgs, seed: u64) -> Shape {
    Shape {
        prompt: args.prompt_len,
        output: args.output_len,
        prefix_len: args.prefix_len,
        num_prefixes: args.num_prefixes,
        seed,
    }
}

fn pace(args: &ServeArgs) -> Pace {
    let most = args.concurrency.map(|n| n as usize);
    if args.rate.is_some() || args.trace.is_some() {
        Pace::Open { most }
    } else {
        Pace::Closed { concurrency: most.unwrap_or(1) }
    }
}

/// The same load without arrivals.
fn closed(pace: Pace) -> Pace {
    match pace {
        Pace::Open { most } => Pace::Closed { concurrency: most.unwrap_or(1) },
        Pace::Closed { .. } => pace,
    }
}

/// One replica that is there from the beginning, unless the arguments say otherwise.
pub(crate) fn one_replica(arguments: &[String]) -> Vec<String> {
    let mut all = arguments.to_vec();
    for flag in ["--min-replicas", "--max-replicas"] {
        let is_given = arguments.iter().any(|a| a == flag || a.starts_with(&format!("{flag}=")));
        if !is_given {
            all.extend([flag.to_owned(), "1".to_owned()]);
        }
    }
    all
}

async fn asking(args: &ServeArgs, server: Option<&Server>) -> Result<Asking, BenchError> {
    let url = match (&args.url, server) {
        (Some(url), _) => url,
        (None, Some(server)) => &server.url,
        (None, None) => return Err(BenchError::new("there is no server")),
    };
    let client = url.client();
    let headers = headers::of(url, &args.headers)?;
    let model = match (&args.model, server) {
        (_, Some(server)) => server.model.clone(),
        (Some(model), None) => model.clone(),
        (None, None) if args.api == Api::Generate => String::new(),
        (None, None) => first_model(url, &headers).await?,
    };
    Ok(Asking {
        client,
        api: args.api,
        path: url.route(args.api.route()),
        headers,
        model,
        temperature: args.temperature,
        ignore_eos: args.ignore_eos,
        timeout: Duration::from_secs_f64(args.timeout),
    })
}

async fn first_model(url: &Url, headers: &http::HeaderMap) -> Result<String, BenchError> {
    let models = crate::fetch(url, &url.route("/v1/models"), headers).await;
    let models = models.map_err(|error| {
        BenchError::new(format!("{url} does not list its models: {error}"))
            .with_cure("start the server first, or name the model with --model")
    })?;
    let models: Value = serde_json::from_slice(&models).unwrap_or_default();
    let id = models["data"][0]["id"].as_str().map(str::to_owned);
    id.ok_or_else(|| {
        BenchError::new(format!("{url} lists no model")).with_cure("name one with --model")
    })
}

fn describe(args: &ServeArgs, asking: &Asking, count: usize, report: &mut Report) {
    let loop_kind = match (&args.trace, args.rate) {
        (Some(path), _) => format!("open, arrivals of {}", path.display()),
        (None, Some(rate)) => format!("open, {rate} requests/s (Poisson)"),
        (None, None) => "closed".to_owned(),
    };
    report.set("api", asking.api.route());
    report.set("model", &asking.model);
    report.set("loop", loop_kind);
    let bound = match pace(args) {
        Pace::Closed { concurrency } => concurrency.to_string(),
        Pace::Open { most } => most.map_or_else(|| "no bound".to_owned(), |n| n.to_string()),
    };
    report.set("concurrency", bound);
    report.set("num-requests", count);
    report.set("warmup", args.warmup);
    report.set("prompt-len", args.prompt_len);
    report.set("output-len", args.output_len);
    if args.prefix_len > 0 {
        report.set("prefix-len", args.prefix_len);
        report.set("num-prefixes", args.num_prefixes);
    }
    report.set("ignore-eos", args.ignore_eos);
    report.set("temperature", args.temperature);
    report.set("seed", args.seed);
    if !args.goodput.is_empty() {
        let targets: Vec<String> = args.goodput.iter().map(ToString::to_string).collect();
        report.set("goodput", targets.join(" "));
    }
    match &args.url {
        Some(url) if !url.is_local() => report.note(
            "the server is on another machine: the machine above is the one that sent the load",
        ),
        Some(_) | None => {}
    }
    if args.url.is_none() {
        report.set("server", format!("tyndall run {}", one_replica(&args.run_args).join(" ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_of_our_own_has_one_replica() {
        let check = |given: &[&str], expected: &[&str]| {
            let given: Vec<String> = given.iter().map(|s| (*s).to_owned()).collect();
            assert_eq!(one_replica(&given), expected);
        };
        check(&[], &["--min-replicas", "1", "--max-replicas", "1"]);
        check(&["--max-replicas=2"], &["--max-replicas=2", "--min-replicas", "1"]);
        check(
            &["--min-replicas", "0", "--max-replicas", "3"],
            &["--min-replicas", "0", "--max-replicas", "3"],
        );
    }

    #[test]
    fn numbers_are_above_zero() {
        assert!((positive("0.5").unwrap() - 0.5).abs() < 1e-12);
        for bad in ["0", "-1", "nan", "inf", "x"] {
            assert!(positive(bad).is_err(), "{bad}");
        }
    }
}
