//! Proxies: a real dispatcher per deployment, fed by the route table.

use super::{Event, Run};
use crate::random::Stream;
use std::collections::BTreeMap;
use tyndall_control::Event as ControlEvent;
use tyndall_routing::{Assignment, Dispatcher, Ticket};
use tyndall_types::protocol::{Demand, DemandReport, DeploymentRoute};

pub(super) struct Proxy {
    name: String,
    pub(super) is_up: bool,
    /// Version of the table that it has.
    table: Option<u64>,
    /// It is asked anew for all of the table by a controller that it did not know.
    is_stale: bool,
    pub(super) lanes: Vec<Option<Lane>>,
    /// Requests that wait for a proxy with a table, in the kernel.
    pub(super) backlog: Vec<Ticket>,
    /// Requests queued and ongoing, where there are any.
    loads: BTreeMap<usize, (u32, u32)>,
    /// Those that have none any more, which the controller was not told yet.
    quiet: Vec<usize>,
    is_reporting: bool,
    is_reading: bool,
    sequence: u64,
}

/// A deployment at a proxy.
pub(super) struct Lane {
    pub(super) dispatcher: Dispatcher,
    /// As the dispatcher counts it, which takes it a walk over its replicas.
    pub(super) ongoing: u32,
    pub(super) is_unavailable: bool,
}

impl Proxy {
    pub(super) fn new(number: usize, deployments: usize) -> Self {
        Self {
            name: format!("proxy-{number}"),
            is_up: true,
            table: None,
            is_stale: true,
            lanes: (0..deployments).map(|_| None).collect(),
            backlog: Vec::new(),
            loads: BTreeMap::new(),
            quiet: Vec::new(),
            is_reporting: false,
            is_reading: false,
            sequence: 0,
        }
    }

    pub(super) fn has_table(&self) -> bool {
        self.is_up && self.table.is_some()
    }
}

impl Run {
    pub(super) fn lane(&mut self, proxy: usize, deployment: usize) -> Option<&mut Lane> {
        self.proxies[proxy].lanes[deployment].as_mut()
    }

    /// A proxy and a controller find each other.
    pub(super) fn connect(&mut self, proxy: usize, controller: u32) {
        if !self.has_controller(controller) || !self.proxies[proxy].is_up {
            return;
        }
        self.proxies[proxy].is_stale = true;
        self.decide(ControlEvent::ProxyConnected(self.proxies[proxy].name.clone()));
        self.expect_routes(proxy);
        self.report_later(proxy);
    }

    pub(super) fn expect_routes(&mut self, proxy: usize) {
        if !self.proxies[proxy].is_reading {
            self.proxies[proxy].is_reading = true;
            self.after_link(Event::Routes { proxy });
        }
    }

    pub(super) fn read_routes(&mut self, proxy: usize) {
        let known = &mut self.proxies[proxy];
        known.is_reading = false;
        if !known.is_up {
            return;
        }
        let since = known.table.filter(|_| !known.is_stale);
        let Some(table) = self.routes(since) else { return };
        let known = &mut self.proxies[proxy];
        known.table = Some(table.version);
        known.is_stale = false;
        for route in &table.deployments {
            if let Some(&deployment) = self.places.get(&route.deployment) {
                self.take_route(proxy, deployment, route);
            }
        }
        for ticket in std::mem::take(&mut self.proxies[proxy].backlog) {
            self.enter(ticket);
        }
    }

    fn take_route(&mut self, proxy: usize, deployment: usize, route: &DeploymentRoute) {
        let (max_ongoing, max_queued) = (route.max_ongoing_requests, route.max_queued_requests);
        let n = (proxy as u64) << 32 | deployment as u64;
        let seed = self.random.bits(Stream::Dispatcher, n);
        let lane = self.proxies[proxy].lanes[deployment].get_or_insert_with(|| Lane {
            dispatcher: Dispatcher::new(max_ongoing, max_queued, seed),
            ongoing: 0,
            is_unavailable: false,
        });
        let replicas = route.replicas.iter().map(|replica| replica.id.clone());
        let assigned = lane.dispatcher.update(replicas, max_ongoing, max_queued);
        lane.is_unavailable = route.unavailable.is_some();
        self.dispatch(proxy, deployment, assigned);
        self.fail_if_unavailable(proxy, deployment);
        self.touch(proxy, deployment);
    }

    /// Sends requests to the replicas that the dispatcher chose.
    pub(super) fn dispatch(&mut self, proxy: usize, deployment: usize, all: Vec<Assignment>) {
        if let Some(lane) = self.lane(proxy, deployment) {
            lane.ongoing += u32::try_from(all.len()).unwrap_or(u32::MAX);
        }
        for Assignment { ticket, replica } in all {
            self.send(ticket, replica);
        }
    }

    /// What waits need not wait where no replica will come.
    pub(super) fn fail_if_unavailable(&mut self, proxy: usize, deployment: usize) {
        let Some(lane) = self.lane(proxy, deployment) else { return };
        if lane.is_unavailable {
            for ticket in lane.dispatcher.fail_waiting() {
                self.requests.end(ticket);
                self.recorders[deployment].totals.refused_unavailable += 1;
            }
        }
    }

    /// Takes note of a load that may have changed.
    pub(super) fn touch(&mut self, proxy: usize, deployment: usize) {
        let Some(lane) = &self.proxies[proxy].lanes[deployment] else { return };
        debug_assert_eq!(lane.ongoing, lane.dispatcher.ongoing(), "counts differ");
        let load = (lane.dispatcher.queued(), lane.ongoing);
        self.set_load(proxy, deployment, load);
    }

    fn set_load(&mut self, proxy: usize, deployment: usize, load: (u32, u32)) {
        let known = &mut self.proxies[proxy];
        let before = match load {
            (0, 0) => known.loads.remove(&deployment),
            _ => known.loads.insert(deployment, load),
        };
        let before = before.unwrap_or_default();
        if before == load {
            return;
        }
        if load == (0, 0) {
            known.quiet.push(deployment);
        }
        let now = self.recorders[deployment].now;
        let queued = now.queued + load.0 - before.0;
        let ongoing = now.ongoing + load.1 - before.1;
        self.recorders[deployment].load(self.now, queued, ongoing);
        self.report_later(proxy);
    }

    fn report_later(&mut self, proxy: usize) {
        if !self.proxies[proxy].is_reporting {
            self.proxies[proxy].is_reporting = true;
            self.agenda.add(self.now + self.config.report_delay, Event::Report { proxy });
        }
    }

    pub(super) fn report(&mut self, proxy: usize) {
        let known = &mut self.proxies[proxy];
        known.is_reporting = false;
        if !known.is_up {
            return;
        }
        known.sequence += 1;
        let demand = |(place, load): (&usize, &(u32, u32))| Demand {
            deployment: self.deployments[*place].id.clone(),
            queued: load.0,
            ongoing: load.1,
        };
        let deployments = known.loads.iter().map(demand).collect();
        let report = DemandReport { sequence: known.sequence, deployments };
        let (proxy, quiet) = (known.name.clone(), std::mem::take(&mut known.quiet));
        self.decide(ControlEvent::Demand { proxy, report });
        quiet.into_iter().for_each(|deployment| self.look_at_losses(deployment));
    }

    /// A proxy dies; what it had is cut.
    pub(super) fn stop_proxy(&mut self, proxy: usize) {
        if !self.proxies[proxy].is_up {
            return;
        }
        let fresh = Proxy { is_up: false, ..Proxy::new(proxy, self.deployments.len()) };
        let old = std::mem::replace(&mut self.proxies[proxy], fresh);
        // Those that it did not accept wait for the next one.
        self.proxies[proxy].backlog = old.backlog;
        for (deployment, load) in old.loads {
            self.proxies[proxy].loads.insert(deployment, load);
            self.set_load(proxy, deployment, (0, 0));
            self.look_at_losses(deployment);
        }
        for (ticket, deployment, process) in self.requests.of_proxy(proxy) {
            if let Some(process) = process {
                self.put_down(process, ticket);
            }
            if !self.proxies[proxy].backlog.contains(&ticket) {
                self.requests.end(ticket);
                self.recorders[deployment].totals.cut += 1;
            }
        }
        self.tell(ControlEvent::ProxyGone(self.proxies[proxy].name.clone()));
        self.agenda.add(self.now + super::RESTART, Event::ProxyUp { proxy });
    }

    pub(super) fn proxy_up(&mut self, proxy: usize) {
        self.proxies[proxy].is_up = true;
        self.connect(proxy, self.controller.number);
    }
}
