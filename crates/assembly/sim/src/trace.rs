//! Which requests arrive when.

use crate::SimError;
use crate::generate;
use crate::random::Random;
use std::time::Duration;

const HEADER: &str = "time_s,deployment[,service_s]";

/// A request arrives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arrival {
    /// Since the begin; never earlier than the one before.
    pub at: Duration,
    /// The place of the deployment it is for, in
    /// [`Simulation::deployments`](crate::Simulation::deployments).
    pub deployment: usize,
    /// Seconds of service where it is alone; absent is drawn by the latency model.
    pub service_s: Option<f64>,
}

/// Arrivals in the order of time, read or generated.
pub struct Trace {
    arrivals: Box<dyn Iterator<Item = Arrival>>,
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Trace")
    }
}

impl Iterator for Trace {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        self.arrivals.next()
    }
}

impl Trace {
    /// Reads CSV: a header that names `time_s`, `deployment` and, where it has one, `service_s`, in
    /// any order; then a request a line, in any order. Empty lines and those that begin with `#` are
    /// passed over. `find` gives the place of a deployment by its name, or says what is wrong with
    /// that; with an empty name where the column is absent.
    ///
    /// # Errors
    /// [`SimError::Trace`] with the line.
    pub fn csv(text: &str, find: &dyn Fn(&str) -> Result<usize, String>) -> Result<Self, SimError> {
        let mut lines = text.lines().enumerate().filter(|(_, line)| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with('#')
        });
        let wrong = |line: usize, message: String| SimError::Trace { line: line + 1, message };
        let (number, header) =
            lines.next().ok_or_else(|| wrong(0, format!("is missing; write {HEADER}")))?;
        let columns = Columns::of(header).map_err(|message| wrong(number, message))?;
        let mut arrivals = Vec::new();
        for (number, line) in lines {
            arrivals.push(columns.arrival(line, find).map_err(|message| wrong(number, message))?);
        }
        // Stable: requests of the same time stay in their order.
        arrivals.sort_by_key(|arrival| arrival.at);
        Ok(Self { arrivals: Box::new(arrivals.into_iter()) })
    }

    /// Generates arrivals by a text.
    ///
    /// ```text
    /// TRACE    = LANE { "+" LANE }              at the same time
    /// LANE     = [ DEPLOYMENT "=" ] PART { "," PART }   one after the other
    /// PART     = "constant:RATE:DURATION"       evenly spaced
    ///          | "poisson:RATE:DURATION"        by chance
    ///          | "step:RATE:RATE:...:DURATION"  by chance, each rate for so long
    ///          | "burst:BASE:PEAK:EVERY:LENGTH:DURATION"   by chance, PEAK for LENGTH once EVERY
    ///          | "diurnal:LOW:HIGH:PERIOD:DURATION"        by chance, a wave that begins low
    ///          | "pause:DURATION"
    /// ```
    ///
    /// Rates are requests per second, times such as `90`, `90s`, `2m` or `1.5h`. So
    /// `chat=poisson:5:10m,pause:5m+embed=burst:1:50:1m:5s:15m`. A lane without a deployment is for
    /// the only one.
    ///
    /// # Errors
    /// [`SimError::Generator`] names the part that is not understood.
    pub fn generate(
        text: &str,
        seed: u64,
        find: &dyn Fn(&str) -> Result<usize, String>,
    ) -> Result<Self, SimError> {
        let lanes = generate::lanes(text, Random::new(seed), find)?;
        Ok(Self { arrivals: Box::new(generate::Merged::new(lanes)) })
    }
}

/// Where in a line what stands.
struct Columns {
    time: usize,
    deployment: Option<usize>,
    service: Option<usize>,
    number: usize,
}

impl Columns {
    fn of(header: &str) -> Result<Self, String> {
        let names: Vec<&str> = header.split(',').map(str::trim).collect();
        let known = ["time_s", "deployment", "service_s"];
        if let Some(other) = names.iter().find(|name| !known.contains(name)) {
            return Err(format!("{other:?} is no column; write the header {HEADER}"));
        }
        let place = |name: &str| names.iter().position(|other| *other == name);
        let time = place("time_s").ok_or_else(|| format!("no column time_s; write {HEADER}"))?;
        Ok(Self {
            time,
            deployment: place("deployment"),
            service: place("service_s"),
            number: names.len(),
        })
    }

    fn arrival(
        &self,
        line: &str,
        find: &dyn Fn(&str) -> Result<usize, String>,
    ) -> Result<Arrival, String> {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        if fields.len() != self.number {
            return Err(format!("has {} fields, the header {}", fields.len(), self.number));
        }
        let time = |text: &str, what: &str| {
            let s = text.parse().ok().filter(|s: &f64| (0.0..=1e9).contains(s));
            s.ok_or_else(|| format!("{what} is {text:?}; write seconds, from 0 on"))
        };
        let at = time(fields[self.time], "time_s")?;
        let service = self.service.map(|i| fields[i]).filter(|text| !text.is_empty());
        Ok(Arrival {
            at: Duration::from_secs_f64(at),
            deployment: find(self.deployment.map_or("", |i| fields[i]))?,
            service_s: service.map(|text| time(text, "service_s")).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(name: &str) -> Result<usize, String> {
        ["a", "b"].iter().position(|known| *known == name).ok_or_else(|| format!("no {name:?}"))
    }

    #[test]
    fn lines_become_arrivals_in_the_order_of_time() {
        let text = "# made by hand\ntime_s, deployment,service_s\n2,a,\n\n1.5,b,0.25\r\n1.5,a,3\n";
        let arrivals: Vec<Arrival> = Trace::csv(text, &find).unwrap().collect();
        let arrival = |ms, deployment, service_s| Arrival {
            at: Duration::from_millis(ms),
            deployment,
            service_s,
        };
        let expected =
            [arrival(1500, 1, Some(0.25)), arrival(1500, 0, Some(3.0)), arrival(2000, 0, None)];
        assert_eq!(arrivals, expected);
        assert_eq!(Trace::csv("deployment,time_s\na,1\n", &find).unwrap().count(), 1);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, expected) in [
            ("", "line 1 of the trace: is missing"),
            ("time,deployment\n", "line 1 of the trace: \"time\" is no column"),
            ("deployment\na\n", "line 1 of the trace: no column time_s"),
            ("time_s,deployment\n1,a\n\n-1,a\n", "line 4 of the trace: time_s is \"-1\""),
            ("time_s,deployment\n1,a\nNaN,a\n", "line 3 of the trace: time_s is \"NaN\""),
            ("time_s,deployment\n1\n", "line 2 of the trace: has 1 fields, the header 2"),
            ("time_s,deployment\n1,c\n", "line 2 of the trace: no \"c\""),
            ("time_s,deployment,service_s\n1,a,x\n", "line 2 of the trace: service_s is \"x\""),
        ] {
            let error = Trace::csv(text, &find).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
