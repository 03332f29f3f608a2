//! Requests: how they arrive, go to replicas, come back and end.

use super::{Event, Run};
use crate::Arrival;
use crate::random::Stream;
use std::collections::HashMap;
use std::time::Duration;
use tyndall_routing::{Admission, Assignment, Failure, Held, Progress, Retry, Ticket, Wish, retry};
use tyndall_types::ReplicaId;

/// How long a request avoids the replicas that failed it, as in the router.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const MAX_PAUSE: Duration = Duration::from_secs(1);

struct Request {
    proxy: usize,
    deployment: usize,
    arrived: Duration,
    /// Its answer must have begun by then.
    deadline: Duration,
    service_s: Option<f64>,
    /// Tries so far; what is on the agenda for an older one is void.
    attempt: u32,
    broken_attempts: u32,
    /// Replicas that failed it.
    avoid: Vec<ReplicaId>,
    pause: Duration,
    /// The replica that it was given.
    replica: Option<ReplicaId>,
    /// The process that works on it; none while it waits or is on its way back.
    process: Option<usize>,
    placed: Duration,
    /// Requests of its proxy and deployment at work then.
    at_work: u32,
    begins: Duration,
    is_timed: bool,
}

/// Requests that have not ended.
#[derive(Default)]
pub(super) struct Requests {
    open: HashMap<Ticket, Request>,
    next: Ticket,
}

impl Requests {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn end(&mut self, ticket: Ticket) {
        self.open.remove(&ticket);
    }

    pub(super) fn open_by_deployment(&self, deployments: usize) -> Vec<u64> {
        let mut counts = vec![0; deployments];
        self.open.values().for_each(|request| counts[request.deployment] += 1);
        counts
    }

    /// Those of a proxy in the order of their arrival: ticket, deployment, process.
    pub(super) fn of_proxy(&self, proxy: usize) -> Vec<(Ticket, usize, Option<usize>)> {
        let of = self.open.iter().filter(|(_, request)| request.proxy == proxy);
        let mut all: Vec<_> =
            of.map(|(ticket, request)| (*ticket, request.deployment, request.process)).collect();
        all.sort_unstable_by_key(|(ticket, ..)| *ticket);
        all
    }
}

impl Run {
    pub(super) fn arrive(&mut self, arrival: Arrival) {
        let ticket = self.requests.next;
        self.requests.next += 1;
        let proxy = (ticket % self.proxies.len() as u64) as usize;
        self.recorders[arrival.deployment].arrived(self.now);
        let request = Request {
            proxy,
            deployment: arrival.deployment,
            arrived: self.now,
            deadline: Duration::MAX,
            service_s: arrival.service_s,
            attempt: 0,
            broken_attempts: 0,
            avoid: Vec::new(),
            pause: FIRST_PAUSE,
            replica: None,
            process: None,
            placed: self.now,
            at_work: 0,
            begins: Duration::MAX,
            is_timed: false,
        };
        self.requests.open.insert(ticket, request);
        if self.proxies[proxy].has_table() {
            self.enter(ticket);
        } else {
            self.proxies[proxy].backlog.push(ticket);
        }
    }

    /// A proxy with a table takes a request from the kernel.
    pub(super) fn enter(&mut self, ticket: Ticket) {
        let Some(request) = self.requests.open.get_mut(&ticket) else { return };
        let (proxy, deployment) = (request.proxy, request.deployment);
        request.deadline = self.now.saturating_add(self.deployments[deployment].request_timeout);
        let Some(lane) = self.proxies[proxy].lanes[deployment].as_mut() else {
            self.recorders[deployment].totals.refused_unavailable += 1;
            return self.requests.end(ticket);
        };
        let patience = self.deployments[deployment].request_timeout;
        match lane.dispatcher.arrive(ticket, Some(patience)) {
            Admission::Assigned(replica) => {
                self.dispatch(proxy, deployment, vec![Assignment { ticket, replica }]);
            }
            Admission::Queued if lane.is_unavailable => {
                self.fail_if_unavailable(proxy, deployment);
            }
            Admission::Queued => self.time(ticket),
            Admission::QueuedInstead(_) => unreachable!("all requests are of one flow"),
            Admission::Refused => {
                self.recorders[deployment].totals.refused_full += 1;
                return self.requests.end(ticket);
            }
            Admission::TooLate(_) => {
                self.recorders[deployment].totals.refused_late += 1;
                return self.requests.end(ticket);
            }
        }
        self.touch(proxy, deployment);
    }

    /// Sees to it that a request that may not begin in time ends.
    fn time(&mut self, ticket: Ticket) {
        let Some(request) = self.requests.open.get_mut(&ticket) else { return };
        if !request.is_timed && request.deadline < Duration::MAX {
            request.is_timed = true;
            self.agenda.add(request.deadline, Event::Late { ticket });
        }
    }

    /// A request goes to the replica that was chosen for it.
    pub(super) fn send(&mut self, ticket: Ticket, replica: ReplicaId) {
        let number = self.processes.number(&replica);
        let Some(request) = self.requests.open.get_mut(&ticket) else { return };
        request.attempt += 1;
        request.replica = Some(replica);
        let attempt = request.attempt;
        let takes = |number: &usize| self.processes.is_running(*number);
        let Some(number) = number.filter(takes) else {
            self.after_link(Event::Bounce { ticket, attempt });
            return;
        };
        request.process = Some(number);
        let (service_s, deployment) = (request.service_s, request.deployment);
        let lane = self.proxies[request.proxy].lanes[deployment].as_ref();
        let at_work = lane.map_or(1, |lane| lane.ongoing);
        let latency = self.deployments[deployment].latency;
        let alone_s = service_s
            .unwrap_or_else(|| latency.service.draw_s(self.random, Stream::Service, ticket));
        let ongoing = self.take_up(number, ticket);
        let (begin, end) = latency.times(alone_s, ongoing, self.processes.slowness(number));
        let Some(request) = self.requests.open.get_mut(&ticket) else { return };
        request.placed = self.now;
        request.at_work = at_work;
        request.begins = self.now.saturating_add(begin);
        if request.begins > request.deadline {
            self.time(ticket);
        } else {
            self.agenda.add(self.now.saturating_add(end), Event::Finish { ticket, attempt });
        }
    }

    pub(super) fn finished(&mut self, ticket: Ticket, attempt: u32) {
        let is_it = |request: &&Request| request.attempt == attempt && request.process.is_some();
        let Some(request) = self.requests.open.get(&ticket).filter(is_it) else { return };
        let (deployment, arrived) = (request.deployment, request.arrived);
        let first_token = request.begins.saturating_sub(request.placed);
        if let Some(process) = request.process {
            self.served(process, first_token);
        }
        self.recorders[deployment].answered(self.now, self.now - arrived);
        self.leave(ticket);
    }

    /// A request that a replica has ends: its place is free.
    fn leave(&mut self, ticket: Ticket) {
        let Some(request) = self.requests.open.remove(&ticket) else { return };
        let (proxy, deployment, now) = (request.proxy, request.deployment, self.now);
        if let Some(process) = request.process {
            self.put_down(process, ticket);
        }
        let (Some(replica), Some(lane)) = (request.replica, self.lane(proxy, deployment)) else {
            return;
        };
        lane.ongoing -= 1;
        let until_answer = (request.begins <= now).then(|| request.begins - request.placed);
        let held = Held { whole: now - request.placed, until_answer, at_work: request.at_work };
        let assigned = lane.dispatcher.release(&replica, &Wish::Any, Some(held));
        self.dispatch(proxy, deployment, assigned);
        self.touch(proxy, deployment);
    }

    pub(super) fn bounced(&mut self, ticket: Ticket, attempt: u32) {
        if self.requests.open.get(&ticket).is_some_and(|request| request.attempt == attempt) {
            self.failed(ticket, Failure::NotStarted);
        }
    }

    /// A replica failed a request, which may go to another.
    pub(super) fn failed(&mut self, ticket: Ticket, failure: Failure) {
        let Some(request) = self.requests.open.get_mut(&ticket) else { return };
        request.broken_attempts += u32::from(failure == Failure::Broken);
        request.process = None;
        let progress = Progress {
            broken_attempts: request.broken_attempts,
            runs_once: false,
            client_saw_bytes: request.begins <= self.now,
            past_deadline: request.deadline <= self.now,
        };
        let totals = &mut self.recorders[request.deployment].totals;
        match retry(failure, progress) {
            Retry::Elsewhere => {
                totals.retried += 1;
                self.come_back(ticket);
            }
            Retry::No => {
                match progress {
                    Progress { client_saw_bytes: true, .. } => totals.interrupted += 1,
                    Progress { past_deadline: true, .. } => totals.late += 1,
                    Progress { .. } => totals.given_up += 1,
                }
                self.leave(ticket);
            }
        }
    }

    fn come_back(&mut self, ticket: Ticket) {
        let Some(request) = self.requests.open.get_mut(&ticket) else { return };
        let (proxy, deployment) = (request.proxy, request.deployment);
        let Some(replica) = request.replica.take() else { return };
        request.begins = Duration::MAX;
        request.avoid.push(replica.clone());
        let (avoid, pause, attempt) = (request.avoid.clone(), request.pause, request.attempt);
        request.pause = (pause * 2).min(MAX_PAUSE);
        let Some(lane) = self.proxies[proxy].lanes[deployment].as_mut() else { return };
        lane.ongoing -= 1;
        let assigned = lane.dispatcher.come_back(ticket, &replica, Wish::Any, avoid);
        let waits = !assigned.iter().any(|one| one.ticket == ticket);
        self.dispatch(proxy, deployment, assigned);
        if waits {
            self.time(ticket);
            self.agenda.add(self.now + pause, Event::Forgive { ticket, attempt });
            self.fail_if_unavailable(proxy, deployment);
        }
        self.touch(proxy, deployment);
    }

    pub(super) fn forgive(&mut self, ticket: Ticket, attempt: u32) {
        let is_it = |request: &&Request| request.attempt == attempt && request.replica.is_none();
        let Some(request) = self.requests.open.get(&ticket).filter(is_it) else { return };
        let (proxy, deployment) = (request.proxy, request.deployment);
        let Some(lane) = self.lane(proxy, deployment) else { return };
        let assigned = lane.dispatcher.forgive(ticket);
        self.dispatch(proxy, deployment, assigned);
        self.touch(proxy, deployment);
    }

    /// The time of a request is over; an answer that has begun goes on.
    pub(super) fn late(&mut self, ticket: Ticket) {
        let Some(request) = self.requests.open.get(&ticket) else { return };
        let (proxy, deployment) = (request.proxy, request.deployment);
        if request.begins <= self.now {
            return;
        }
        let waits = request.replica.is_none();
        self.recorders[deployment].totals.late += 1;
        if !waits {
            return self.leave(ticket);
        }
        let was_waiting =
            self.lane(proxy, deployment).is_some_and(|lane| lane.dispatcher.cancel(ticket));
        if !was_waiting {
            self.anomaly(format!("the dispatcher does not know the waiting request {ticket}"));
        }
        self.requests.end(ticket);
        self.touch(proxy, deployment);
    }
}
