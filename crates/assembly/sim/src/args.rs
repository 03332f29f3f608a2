//! The command line of `tyndall simulate`.

use crate::{
    Capacity, Faults, LatencyModel, Options, Outcome, SimError, Time, TraceSource, applications,
};
use clap::Args;
use std::io::Write;
use std::path::{Path, PathBuf};
use tyndall_config::{parse_bytes, parse_seconds};
use tyndall_control::seconds;

const EXAMPLES: &str = "\
A trace is a CSV file with the header time_s,deployment[,service_s], or a rule:
  constant:RATE:DURATION                       evenly spaced requests, RATE a second
  poisson:RATE:DURATION                        by chance
  step:RATE:RATE:...:DURATION                  each rate for so long
  burst:BASE:PEAK:EVERY:LENGTH:DURATION        PEAK for LENGTH, once in EVERY
  diurnal:LOW:HIGH:PERIOD:DURATION             a wave that begins low
  pause:DURATION
Parts follow each other after ',', go on at the same time after '+', and DEPLOYMENT= before them
says for which deployment they are. Times are such as 90, 90s, 2m or 1.5h.

Faults: crash, node-loss, slow-node, controller-restart and proxy-restart as NAME:RATE/s or
NAME:COUNT@TIME; start-failure:SHARE and start-hang:SHARE of the starts.

Examples:
  tyndall simulate --config serve.yaml --trace poisson:5:10m --html out.html
  tyndall simulate --config serve.yaml --trace monday.csv --service-s 2.5:0.6 --start-s 20
  tyndall simulate --config serve.yaml --trace 'chat=diurnal:0:20:1h:2h+embed=burst:1:50:1m:5s:2h'
  tyndall simulate --config serve.yaml --trace step:1:20:1:5m --faults crash:0.01/s,node-loss:1@300

No process is started and no model is loaded; the same seed gives the same outcome.";

/// Try a config file on a trace, in virtual time.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct SimulateArgs {
    /// Ray Serve config file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// What arrives: a CSV file or a rule.
    #[arg(long, value_name = "FILE|RULE")]
    pub trace: String,
    /// Seconds of a request that is alone at its replica; with SIGMA lognormal.
    #[arg(long, value_name = "MEAN[:SIGMA]", default_value = "1")]
    pub service_s: String,
    /// Seconds from the decision to start a replica to its readiness; with SIGMA lognormal.
    #[arg(long, value_name = "MEAN[:SIGMA]", default_value = "2")]
    pub start_s: String,
    /// What each further request in work adds to the service, as a share of it.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub concurrency_slope: f64,
    /// Share of the service after which an answer begins: from then on a lost replica interrupts it.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    pub begins_after: f64,
    /// Decides all that is by chance.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// What goes wrong.
    #[arg(long, value_name = "SPEC", default_value = "")]
    pub faults: String,
    /// Machines.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub nodes: u32,
    /// Proxies.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub proxies: u32,
    /// Memory of all machines together, such as 64GiB; without it memory is not scarce.
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// CPUs of all machines together; without it they are not scarce.
    #[arg(long, value_name = "N")]
    pub cpus: Option<f64>,
    /// GPUs of all machines together.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub gpus: u32,
    /// Virtual time after the last arrival; without it as long as idle replicas stay.
    #[arg(long, value_name = "TIME")]
    pub after: Option<String>,
    /// Write the page here.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write everything as JSON here.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl SimulateArgs {
    /// What the file does not say.
    ///
    /// # Errors
    /// The first option that is not understood.
    pub fn options(&self) -> Result<Options, SimError> {
        let memory = self.memory.as_deref();
        let bytes = |text: &str| parse_bytes(text).map_err(|e| wrong("--memory", text, e));
        let after = self.after.as_deref();
        let time = |text: &str| parse_seconds(text).map_err(|e| wrong("--after", text, e));
        Ok(Options {
            latency: LatencyModel {
                service: time_of("--service-s", &self.service_s)?,
                start: time_of("--start-s", &self.start_s)?,
                concurrency_slope: share("--concurrency-slope", self.concurrency_slope, 1e6)?,
                begins_after: share("--begins-after", self.begins_after, 1.0)?,
                ..LatencyModel::default()
            },
            faults: Faults::parse(&self.faults)?,
            capacity: Capacity {
                memory_bytes: memory.map(bytes).transpose()?,
                num_cpus: self.cpus,
                gpus: (0..self.gpus).map(|gpu| gpu.to_string()).collect(),
                ..Capacity::default()
            },
            nodes: self.nodes,
            proxies: self.proxies,
            after: after.map(time).transpose()?.map(seconds),
            seed: self.seed,
        })
    }

    /// A file where there is one of that name, or where it is called like one; else a rule.
    fn trace(&self) -> Result<TraceSource, SimError> {
        let path = Path::new(&self.trace);
        let is_csv = path.extension().is_some_and(|extension| extension == "csv");
        if is_csv || path.is_file() {
            return Ok(TraceSource::Csv(read(path)?));
        }
        Ok(TraceSource::Generator(self.trace.clone()))
    }
}

/// Carries out the command: writes the summary to `out`, and the files that were asked for.
///
/// # Errors
/// Whatever of config, trace and options is wrong, and files that cannot be read or written.
pub fn run(args: &SimulateArgs, out: &mut dyn Write) -> Result<Outcome, SimError> {
    let options = args.options()?;
    let text = read(&args.config)?;
    let folder = args.config.parent().unwrap_or(Path::new("")).to_owned();
    let mut read_model =
        |path: &str| std::fs::read_to_string(folder.join(path)).map_err(|error| error.to_string());
    let scenario = applications(&text, &mut read_model)?;
    let outcome = scenario.simulate(&args.trace()?, &options)?;
    out.write_all(outcome.to_text().as_bytes()).map_err(SimError::Output)?;
    if let Some(path) = &args.json {
        write(path, &outcome.to_json())?;
    }
    if let Some(path) = &args.html {
        write(path, &outcome.to_html())?;
    }
    Ok(outcome)
}

fn time_of(option: &'static str, text: &str) -> Result<Time, SimError> {
    let (mean, sigma) = text.split_once(':').unwrap_or((text, "0"));
    let number = |text: &str| text.parse().ok().filter(|n: &f64| (0.0..=1e6).contains(n));
    match (number(mean), number(sigma)) {
        (Some(mean_s), Some(sigma)) if sigma > 0.0 => Ok(Time::LogNormal { mean_s, sigma }),
        (Some(mean_s), Some(_)) => Ok(Time::Constant(mean_s)),
        _ => Err(wrong(option, text, "write seconds, such as 2.5, or 2.5:0.6 with a sigma".into())),
    }
}

fn share(option: &'static str, share: f64, most: f64) -> Result<f64, SimError> {
    let is_good = (0.0..=most).contains(&share);
    let message = format!("write a number from 0 to {most}");
    if is_good { Ok(share) } else { Err(wrong(option, &share.to_string(), message)) }
}

fn wrong(option: &'static str, text: &str, message: String) -> SimError {
    SimError::Option { option, text: text.to_owned(), message }
}

fn read(path: &Path) -> Result<String, SimError> {
    let wrong = |source| SimError::File { verb: "read", path: path.to_owned(), source };
    std::fs::read_to_string(path).map_err(wrong)
}

fn write(path: &Path, text: &str) -> Result<(), SimError> {
    let wrong = |source| SimError::File { verb: "write", path: path.to_owned(), source };
    std::fs::write(path, text).map_err(wrong)
}
