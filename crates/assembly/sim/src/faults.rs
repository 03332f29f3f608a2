//! What goes wrong, and how it is written.

use crate::SimError;
use std::time::Duration;
use tyndall_config::parse_seconds;
use tyndall_control::seconds;

const ACCEPTED: &str = "crash, node-loss, slow-node, controller-restart or proxy-restart, each as \
                        NAME:RATE/s or NAME:COUNT@TIME, and start-failure:SHARE, start-hang:SHARE, \
                        separated by commas, such as crash:0.01/s,node-loss:1@300";

/// Something that goes wrong while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A replica's process dies, any that runs.
    Crash,
    /// All processes of a node die. It takes no new ones, unless it was the last.
    NodeLoss,
    /// Requests on a node take longer from now on.
    SlowNode,
    /// The controller dies, and a new one is there after a second.
    ControllerRestart,
    /// A proxy dies with the requests it has, and a new one is there after a second.
    ProxyRestart,
}

/// What goes wrong in a run; which of many it meets is the seed's choice.
///
/// As text ([`Faults::parse`]): parts separated by commas. `crash:0.01/s` happens by chance so often
/// a second, all replicas together, as long as requests arrive; `crash:3@60` happens to three at
/// second 60; `start-failure:0.1` and `start-hang:0.01` are the shares of starts that fail, or never
/// get ready. Names are those of [`Fault`] in lower case with a `-`.
#[derive(Debug, Clone, PartialEq)]
pub struct Faults {
    /// Share of starts after which the replica says that it failed.
    pub start_failure: f64,
    /// Share of starts of which nothing is heard again.
    pub start_hang: f64,
    /// What happens by chance, and how often a second.
    pub rates: Vec<(Fault, f64)>,
    /// What happens when, and to how many.
    pub planned: Vec<(Duration, Fault, u32)>,
    /// Times as long as elsewhere a request takes on a slow node.
    pub slow_node: f64,
}

impl Default for Faults {
    /// Nothing goes wrong.
    fn default() -> Self {
        Self {
            start_failure: 0.0,
            start_hang: 0.0,
            rates: Vec::new(),
            planned: Vec::new(),
            slow_node: 3.0,
        }
    }
}

impl Faults {
    /// Reads what is written.
    ///
    /// # Errors
    /// [`SimError::Faults`] names the part that is not understood.
    pub fn parse(text: &str) -> Result<Self, SimError> {
        let mut faults = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            faults.take(part).ok_or_else(|| SimError::Faults {
                text: part.to_owned(),
                message: format!("write {ACCEPTED}"),
            })?;
        }
        Ok(faults)
    }

    fn take(&mut self, part: &str) -> Option<()> {
        let (name, much) = part.split_once(':')?;
        let share = || much.parse().ok().filter(|share| (0.0..=1.0).contains(share));
        match name {
            "start-failure" => self.start_failure = share()?,
            "start-hang" => self.start_hang = share()?,
            _ => {
                let fault = fault(name)?;
                if let Some((count, at)) = much.split_once('@') {
                    let count = count.parse().ok().filter(|count| *count > 0)?;
                    self.planned.push((seconds(parse_seconds(at).ok()?), fault, count));
                } else {
                    let rate: f64 = much.strip_suffix("/s")?.parse().ok()?;
                    self.rates.push((fault, Some(rate).filter(|r| r.is_finite() && *r > 0.0)?));
                }
            }
        }
        Some(())
    }
}

fn fault(name: &str) -> Option<Fault> {
    Some(match name {
        "crash" => Fault::Crash,
        "node-loss" => Fault::NodeLoss,
        "slow-node" => Fault::SlowNode,
        "controller-restart" => Fault::ControllerRestart,
        "proxy-restart" => Fault::ProxyRestart,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_as_they_are_written() {
        let text = "crash:0.01/s, node-loss:2@5m,start-failure:0.1,start-hang:0,proxy-restart:1@9";
        let faults = Faults::parse(text).unwrap();
        assert_eq!(faults.rates, [(Fault::Crash, 0.01)]);
        let s = Duration::from_secs;
        let planned = [(s(300), Fault::NodeLoss, 2), (s(9), Fault::ProxyRestart, 1)];
        assert_eq!(faults.planned, planned);
        assert_eq!((faults.start_failure, faults.start_hang), (0.1, 0.0));
        assert_eq!(Faults::parse("").unwrap(), Faults::default());
    }

    #[test]
    fn what_is_no_fault_is_named() {
        for bad in ["crash", "crash:1", "crash:-1/s", "flood:1/s", "start-hang:2", "crash:0@1"] {
            let error = Faults::parse(&format!("slow-node:1@2,{bad}")).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{bad:?} is not a usable fault: write ")),
                "{error}"
            );
        }
    }
}
