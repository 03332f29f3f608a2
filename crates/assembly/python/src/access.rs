//! Lines of the access log, formatted and written beside the loop.
//!
//! Source of the form: Ray Serve's log of a replica, as text.

use crate::call::CallRequest;
use crate::http::{HttpRequest, lock};
use crate::request::Arrival;
use crate::websocket::WebSocket;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use pyo3::prelude::*;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use tyndall::RequestContext;

/// Lines wait for so long, so that many are written at once.
const MAX_DELAY: Duration = Duration::from_millis(10);

/// So many are written without a delay.
const MANY: usize = 1024;

/// So many wait; then the loop waits until they are written.
const MAX_WAITING: usize = 4096;

/// A line per request, as text, on standard error.
#[pyclass(frozen, module = "tyndall._tyndall")]
pub(crate) struct AccessLines {
    lines: Arc<Lines>,
}

#[pymethods]
impl AccessLines {
    /// `origin` is what each line has after its time.
    #[new]
    fn new(origin: String) -> PyResult<Self> {
        let lines = Arc::new(Lines {
            origin,
            waiting: Mutex::default(),
            came: Condvar::new(),
            clock: Mutex::new(Clock::default()),
        });
        let own = lines.clone();
        let writing = std::thread::Builder::new().name("access-log".to_owned());
        writing.spawn(move || own.write_forever())?;
        Ok(Self { lines })
    }

    /// An answer is over.
    #[pyo3(signature = (request, route=None))]
    fn http(&self, py: Python<'_>, request: &HttpRequest, route: Option<&str>) {
        let root = &request.arrival().context.root_path;
        let root = if root.is_empty() { "/" } else { root };
        let what = format!("{} {} {}", request.method(), route.unwrap_or(root), request.status());
        self.push(py, Line::new(request.arrival(), what));
    }

    /// A call of gRPC is over, whose input was complete when it came.
    fn grpc(&self, py: Python<'_>, request: &HttpRequest, code: &str) {
        let what = format!("GRPC {} {code}", request.path());
        self.push(py, Line::new(request.arrival(), what));
    }

    /// One is over whose input came meanwhile.
    fn grpc_stream(&self, py: Python<'_>, socket: &WebSocket, code: &str) {
        let what = format!("GRPC {} {code}", socket.path());
        self.push(py, Line::new(socket.arrival(), what));
    }

    /// A call is over.
    fn call(&self, py: Python<'_>, request: &CallRequest, outcome: &str) {
        let what = format!("CALL {} {outcome}", request.method());
        self.push(py, Line::new(request.arrival(), what));
    }

    /// Writes what waits.
    fn flush(&self, py: Python<'_>) {
        py.detach(|| self.lines.flush());
    }
}

impl AccessLines {
    fn push(&self, py: Python<'_>, line: Line) {
        let mut waiting = lock(&self.lines.waiting);
        waiting.push(line);
        let count = waiting.len();
        drop(waiting);
        if count == 1 || count == MANY {
            self.lines.came.notify_one();
        } else if count >= MAX_WAITING {
            py.detach(|| self.lines.flush());
        }
    }
}

struct Line {
    at: Timestamp,
    context: Arc<RequestContext>,
    what: String,
    took: Duration,
}

impl Line {
    fn new(arrival: &Arrival, what: String) -> Self {
        let (context, took) = (arrival.context.clone(), arrival.elapsed());
        Self { at: Timestamp::now(), context, what, took }
    }
}

struct Lines {
    origin: String,
    waiting: Mutex<Vec<Line>>,
    came: Condvar,
    /// Held while lines are written, so that they stay in order.
    clock: Mutex<Clock>,
}

impl Lines {
    fn write_forever(&self) {
        loop {
            let waiting = lock(&self.waiting);
            let came = self.came.wait_while(waiting, |waiting| waiting.is_empty());
            let waiting = came.unwrap_or_else(PoisonError::into_inner);
            let is_few = |waiting: &mut Vec<Line>| waiting.len() < MANY;
            drop(self.came.wait_timeout_while(waiting, MAX_DELAY, is_few));
            self.flush();
        }
    }

    fn flush(&self) {
        let mut clock = lock(&self.clock);
        let lines = std::mem::take(&mut *lock(&self.waiting));
        if lines.is_empty() {
            return;
        }
        let mut text = String::with_capacity(lines.len() * 128);
        for Line { at, context, what, took } in lines {
            let (origin, id, millis) = (&self.origin, &context.request_id, at.subsec_millisecond());
            let (second, took_ms) = (clock.second(at), took.as_secs_f64() * 1e3);
            // Writing to a String does not fail.
            let _written =
                writeln!(text, "INFO {second},{millis:03} {origin} {id} -- {what} {took_ms:.1}ms");
        }
        // In one piece, so that lines of several processes do not mix; what cannot be written is lost.
        let _written = std::io::stderr().write_all(text.as_bytes());
    }
}

/// Local time; the second, which many lines share, is kept.
#[derive(Default)]
struct Clock {
    zone: Option<TimeZone>,
    second: i64,
    text: String,
}

impl Clock {
    fn second(&mut self, at: Timestamp) -> &str {
        let zone = self.zone.get_or_insert_with(TimeZone::system);
        if self.text.is_empty() || self.second != at.as_second() {
            self.second = at.as_second();
            self.text = at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string();
        }
        &self.text
    }
}
