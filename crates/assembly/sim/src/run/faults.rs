//! What goes wrong.

use super::{Event, Run};
use crate::faults::Fault;
use crate::random::Stream;
use std::time::Duration;

impl Run {
    pub(super) fn plan_faults(&mut self) {
        for (at, fault, count) in self.config.faults.planned.clone() {
            self.agenda.add(at, Event::Planned { fault, count });
        }
        (0..self.config.faults.rates.len()).for_each(|rate| self.plan_chance(rate));
    }

    fn plan_chance(&mut self, rate: usize) {
        let (_, per_s) = self.config.faults.rates[rate];
        self.num_faults += 1;
        let gap_s = self.random.exponential(Stream::FaultGap, self.num_faults) / per_s;
        let gap = tyndall_control::seconds(gap_s).max(Duration::from_nanos(1));
        self.agenda.add(self.now.saturating_add(gap), Event::Chance { rate });
    }

    pub(super) fn chance(&mut self, rate: usize) {
        // Afterwards it must come to rest.
        if self.end.is_none() {
            self.go_wrong(self.config.faults.rates[rate].0);
            self.plan_chance(rate);
        }
    }

    pub(super) fn go_wrong(&mut self, fault: Fault) {
        self.num_faults += 1;
        let (random, n) = (self.random, self.num_faults);
        let pick = |among: usize| random.below(Stream::Victim, n, among);
        match fault {
            Fault::Crash => {
                let alive = self.processes.alive_numbers();
                if let Some(&number) = alive.get(pick(alive.len())) {
                    self.exit(number, true);
                }
            }
            Fault::NodeLoss => {
                let there = self.nodes();
                let Some(&node) = there.get(pick(there.len())) else { return };
                if there.len() > 1 {
                    self.processes.nodes[node] = None;
                }
                for number in self.processes.on_node(node) {
                    self.exit(number, true);
                }
            }
            Fault::SlowNode => {
                let there = self.nodes();
                if let Some(&node) = there.get(pick(there.len())) {
                    self.processes.nodes[node] = Some(self.config.faults.slow_node);
                }
            }
            Fault::ControllerRestart => self.stop_controller(),
            Fault::ProxyRestart => self.stop_proxy(pick(self.proxies.len())),
        }
    }

    fn nodes(&self) -> Vec<usize> {
        let nodes = self.processes.nodes.iter().enumerate();
        nodes.filter(|(_, slowness)| slowness.is_some()).map(|(node, _)| node).collect()
    }
}
