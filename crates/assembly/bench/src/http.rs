//! `bench http`: how many requests per second a route answers, and how fast.

use crate::error::BenchError;
use crate::html::shares;
use crate::progress::Progress;
use crate::report::{Chart, Report, Series};
use crate::serve::positive;
use crate::url::Url;
use crate::{Context, headers};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use tokio::time::sleep;
use tyndall_transport::{Client, Outgoing};
use tyndall_types::with_causes;

/// Latencies that are kept per connection; of more, every second one is dropped again and again.
const MAX_KEPT: usize = 1 << 18;
/// Without an answer for so long, a request has failed.
const TIMEOUT: Duration = Duration::from_secs(60);
/// After so many failures in a row a connection gives up: nobody is there.
const MAX_FAILURES: u32 = 20;

/// What `bench http` is asked for.
#[derive(Debug, clap::Args)]
pub struct HttpArgs {
    /// The route, such as http://127.0.0.1:8000/v1/models
    pub url: Url,
    /// The method
    #[arg(long, short = 'X', default_value = "GET")]
    pub method: Method,
    /// The body of each request
    #[arg(long, short = 'd', default_value = "")]
    pub body: String,
    /// A header of every request, such as 'content-type: application/json'
    #[arg(long = "header", short = 'H', value_name = "HEADER", value_parser = headers::parse)]
    pub headers: Vec<headers::Header>,
    /// Connections that are kept open, each with one request at a time
    #[arg(long, short = 'c', default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// How long to go on, unless --num-requests is given
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = positive)]
    pub duration: f64,
    /// Stop after so many requests instead
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub num_requests: Option<u64>,
    /// Seconds before, that are not measured
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    pub warmup: f64,
    /// Threads that send [default: half of the cores]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: Option<u32>,
}

/// What all connections share.
struct Load {
    request: Request<Bytes>,
    until: Instant,
    /// Requests that may still be begun.
    left: AtomicU64,
    start: Instant,
}

/// What one connection saw.
#[derive(Debug, Default)]
struct Seen {
    latencies_ms: Vec<f64>,
    /// Each kept latency stands for so many.
    stride: u64,
    requests: u64,
    bytes: u64,
    statuses: BTreeMap<u16, u64>,
    errors: BTreeMap<String, u64>,
    seconds: BTreeMap<u64, u64>,
}

/// Runs the load and reports.
pub(crate) fn run(args: &HttpArgs, context: &Context) -> Result<Report, BenchError> {
    let mut report = Report::new("http", &context.command);
    let (seen, took_s) = load(args)?;
    report.set("url", &args.url);
    report.set("method", &args.method);
    report.set("body", format!("{} bytes", args.body.len()));
    report.set("connections", args.connections);
    report.set("threads", threads(args));
    match args.num_requests {
        Some(most) => report.set("num-requests", most),
        None => report.set("duration", format!("{} s", args.duration)),
    }
    fill(&mut report, &seen, took_s)?;
    Ok(report)
}

/// What is answered in a second.
pub(crate) fn requests_per_s(args: &HttpArgs) -> Result<f64, BenchError> {
    let (seen, took_s) = load(args)?;
    let answered: u64 = seen.iter().flat_map(|one| one.statuses.values()).sum();
    Ok(answered as f64 / took_s)
}

/// What each connection saw after the warm-up, and how many seconds that took.
fn load(args: &HttpArgs) -> Result<(Vec<Seen>, f64), BenchError> {
    let threads = threads(args);
    let headers = headers::of(&args.url, &args.headers)?;
    let warmup = Duration::try_from_secs_f64(args.warmup.clamp(0.0, 3600.0)).unwrap_or_default();
    if !warmup.is_zero() {
        all_connections(args, threads, &headers, warmup, u64::MAX)?;
    }
    let (time, most) = match args.num_requests {
        Some(most) => (Duration::from_secs(24 * 3600), most),
        None => (Duration::from_secs_f64(args.duration), u64::MAX),
    };
    all_connections(args, threads, &headers, time, most)
}

fn threads(args: &HttpArgs) -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    args.threads.map_or((cores / 2).max(1), |threads| threads as usize)
}

/// Each thread has its share of the connections, and a runtime that no other takes from.
fn all_connections(
    args: &HttpArgs,
    threads: usize,
    headers: &HeaderMap,
    time: Duration,
    most: u64,
) -> Result<(Vec<Seen>, f64), BenchError> {
    let _progress = Progress::spinner("requests");
    let mut request = Request::new(Bytes::from(args.body.clone()));
    *request.method_mut() = args.method.clone();
    let path = args.url.path().parse();
    *request.uri_mut() = path.map_err(|error| BenchError::of("the path is no URI", &error))?;
    *request.headers_mut() = headers.clone();
    let start = Instant::now();
    let load = Arc::new(Load { request, until: start + time, left: AtomicU64::new(most), start });
    let all = args.connections as usize;
    let shares = (0..threads).map(|index| all / threads + usize::from(index < all % threads));
    let seen = thread::scope(|scope| {
        let load = &load;
        let start = |share| scope.spawn(move || some_connections(args, share, load));
        let running: Vec<_> = shares.map(start).collect();
        let ended = running.into_iter().map(|thread| thread.join().map_err(|_| panicked())?);
        ended.collect::<Result<Vec<_>, _>>()
    })?;
    Ok((seen.into_iter().flatten().collect(), start.elapsed().as_secs_f64()))
}

fn panicked() -> BenchError {
    BenchError::new("a thread of the load panicked")
}

fn some_connections(
    args: &HttpArgs,
    connections: usize,
    load: &Arc<Load>,
) -> Result<Vec<Seen>, BenchError> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| BenchError::of("failed to start a runtime", &error))?;
    // A client of one user has one connection.
    let spawn = |_| runtime.spawn(connection(args.url.client(), Arc::clone(load)));
    let spawned: Vec<_> = (0..connections).map(spawn).collect();
    let all = async {
        let mut seen = Vec::new();
        for connection in spawned {
            seen.extend(connection.await);
        }
        seen
    };
    Ok(runtime.block_on(all))
}

async fn connection(client: Client, load: Arc<Load>) -> Seen {
    let mut seen = Seen { stride: 1, ..Seen::default() };
    let mut failures = 0;
    let may_begin = |left: u64| left.checked_sub(1);
    // One timer, which is set again only when it has run out, is less work than one per request.
    let mut watch = pin!(sleep(TIMEOUT));
    let mut begin = Instant::now();
    while begin < load.until
        && load.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, may_begin).is_ok()
    {
        let late = begin + TIMEOUT;
        let mut exchanged = pin!(exchange(&client, &load.request));
        let exchanged = poll_fn(|cx| {
            if let Poll::Ready(exchanged) = exchanged.as_mut().poll(cx) {
                return Poll::Ready(exchanged);
            }
            while watch.as_mut().poll(cx).is_ready() {
                if Instant::now() >= late {
                    return Poll::Ready(Err(format!("no answer within {} s", TIMEOUT.as_secs())));
                }
                watch.as_mut().reset(late.into());
            }
            Poll::Pending
        });
        let exchanged = exchanged.await;
        let end = Instant::now();
        match exchanged {
            Ok((status, bytes)) => {
                failures = 0;
                seen.bytes += bytes;
                *seen.statuses.entry(status).or_default() += 1;
                let second = (begin - load.start).as_secs();
                *seen.seconds.entry(second).or_default() += 1;
                seen.keep((end - begin).as_secs_f64() * 1e3);
            }
            Err(error) => {
                failures += 1;
                *seen.errors.entry(error).or_default() += 1;
                if failures == MAX_FAILURES {
                    break;
                }
            }
        }
        begin = end;
    }
    seen
}

impl Seen {
    fn keep(&mut self, latency_ms: f64) {
        if self.requests.is_multiple_of(self.stride) {
            self.latencies_ms.push(latency_ms);
        }
        self.requests += 1;
        if self.latencies_ms.len() == MAX_KEPT {
            let mut index = 0;
            self.latencies_ms.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride *= 2;
        }
    }
}

/// One request; its answer is read to the end.
async fn exchange(client: &Client, request: &Request<Bytes>) -> Result<(u16, u64), String> {
    let (method, uri) = (request.method(), request.uri());
    let outgoing = Outgoing::new(method, uri, request.headers(), request.body());
    let response = client.exchange(outgoing).await;
    let response = response.map_err(|error| with_causes(error.to_string(), &error))?;
    let status = response.status().as_u16();
    let (mut body, mut bytes) = (response.into_body(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("the answer broke off: {error}"))?;
        bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok((status, bytes))
}

fn fill(report: &mut Report, seen: &[Seen], took_s: f64) -> Result<(), BenchError> {
    let mut statuses: BTreeMap<u16, u64> = BTreeMap::new();
    let mut errors: BTreeMap<&str, u64> = BTreeMap::new();
    let mut seconds: BTreeMap<u64, u64> = BTreeMap::new();
    for one in seen {
        one.statuses.iter().for_each(|(status, n)| *statuses.entry(*status).or_default() += n);
        one.errors.iter().for_each(|(error, n)| *errors.entry(error).or_default() += n);
        one.seconds.iter().for_each(|(second, n)| *seconds.entry(*second).or_default() += n);
    }
    let answered: u64 = statuses.values().sum();
    let failed: u64 = errors.values().sum();
    if let (0, Some((error, _))) = (answered, errors.first_key_value()) {
        return Err(BenchError::new(format!("no request was answered: {error}"))
            .with_cure("check the URL, and that the server runs"));
    }
    let bytes: u64 = seen.iter().map(|one| one.bytes).sum();
    report.rate("request_throughput", "Requests", answered as f64 / took_s, "req/s");
    report.rate("body_throughput", "Bodies of answers", bytes as f64 / took_s / 1e6, "MB/s");
    report.fact("completed", "Requests that were answered", answered as f64, "");
    report.cost("failed", "Requests without an answer", failed as f64, "");
    let bad: u64 = statuses.iter().filter(|(s, _)| **s >= 400).map(|(_, n)| n).sum();
    report.cost("refused", "Answers with status 400 or above", bad as f64, "");
    report.fact("duration", "Duration", took_s, "s");
    // The connection that keeps the fewest decides, so that all count alike.
    let stride = seen.iter().map(|one| one.stride).max().unwrap_or(1);
    let kept = seen.iter().flat_map(|one| {
        one.latencies_ms.iter().step_by((stride / one.stride.max(1)) as usize).copied()
    });
    report.latency("e2el", "Latency", kept);
    for (status, count) in statuses.iter().filter(|(status, _)| **status != 200) {
        report.note(format!("{count} answers have status {status}"));
    }
    for (error, count) in errors.iter().take(10) {
        report.note(format!("{count} requests failed: {error}"));
    }
    report.charts.push(shares("Latency", &report.distributions, &["e2el"]));
    // The last second is a part of one.
    let whole = seconds.iter().filter(|(second, _)| (**second + 1) as f64 <= took_s);
    let points: Vec<(f64, f64)> = whole.map(|(s, n)| (*s as f64, *n as f64)).collect();
    if points.len() > 1 {
        report.charts.push(Chart::Plot {
            title: "Requests over time".to_owned(),
            x: "seconds into the run".to_owned(),
            y: "requests per second".to_owned(),
            joined: true,
            series: vec![Series { name: "answered".to_owned(), points }],
            limits: Vec::new(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_latencies_every_nth_is_kept() {
        let mut seen = Seen { stride: 1, ..Seen::default() };
        let total = 3 * MAX_KEPT;
        (0..total).for_each(|i| seen.keep(i as f64));
        assert_eq!(seen.requests, total as u64);
        assert!(seen.stride >= 4 && seen.latencies_ms.len() < MAX_KEPT);
        let stride = seen.stride as f64;
        let steps = seen.latencies_ms.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(steps.into_iter().all(|step| (step - stride).abs() < 1e-9));
    }

    #[test]
    fn statuses_and_errors_are_told() {
        let mut one = Seen { stride: 1, bytes: 4_000_000, ..Seen::default() };
        one.statuses = BTreeMap::from([(200, 6), (503, 2)]);
        one.errors = BTreeMap::from([("gone".to_owned(), 1)]);
        one.keep(2.0);
        let mut report = Report::new("http", &[]);
        fill(&mut report, &[one], 2.0).unwrap();
        let value = |name: &str| report.metrics.iter().find(|m| m.name == name).unwrap().value;
        assert!((value("request_throughput") - 4.0).abs() < 1e-9);
        assert!((value("body_throughput") - 2.0).abs() < 1e-9);
        assert!((value("failed") - 1.0).abs() < 1e-9 && (value("refused") - 2.0).abs() < 1e-9);
        assert_eq!(report.notes, ["2 answers have status 503", "1 requests failed: gone"]);
        let lost = Seen { errors: BTreeMap::from([("gone".to_owned(), 1)]), ..Seen::default() };
        assert!(fill(&mut report, &[lost], 1.0).is_err());
    }
}
