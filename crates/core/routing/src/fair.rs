//! Who goes next of those that wait.
//!
//! Start-time fair queueing: each flow has its own line, and a tag that grows by the reverse of its
//! weight with each of its requests that is served. The flow with the smallest tag is next, and
//! virtual time is the tag of the one that was served last. A flow that comes begins at virtual
//! time, so that having been idle earns nothing; one that leaves its line empty keeps its tag until
//! virtual time has passed it, so that coming back at once earns nothing either. With one flow this
//! is a plain queue.
//!
//! A request that cannot have what it wishes for is passed over: the next of its line goes in its
//! place, and the flow pays as if it had gone.
//!
//! Requests that came back from a lost replica are before all others, in the order of arrival: they
//! had their turn already.
//!
//! Source: Goyal, Vin, Cheng, "Start-time Fair Queueing", SIGCOMM 1996.

use crate::{Ticket, Wish};
use std::collections::VecDeque;
use tyndall_types::ReplicaId;

/// What serving one request costs a flow of weight 1.
const COST: u128 = 1 << 64;

/// Whose a request is where several share what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Tells flows apart.
    pub id: u64,
    /// Its share beside others, from 1 on.
    pub weight: u32,
}

impl Default for Flow {
    /// The flow of all requests that are nobody's.
    fn default() -> Self {
        Self { id: 0, weight: 1 }
    }
}

/// A request that came back.
#[derive(Debug)]
pub(crate) struct Returned {
    pub(crate) ticket: Ticket,
    pub(crate) wish: Wish,
    /// Replicas that failed it.
    pub(crate) avoid: Vec<ReplicaId>,
}

/// A request that waits and never had a replica.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) ticket: Ticket,
    pub(crate) wish: Wish,
    /// It has waited long enough for what it wishes.
    pub(crate) takes_any: bool,
}

impl Queued {
    fn is_undecided(&self) -> bool {
        self.wish == Wish::Undecided
    }
}

/// The requests of a flow that wait.
#[derive(Debug)]
struct Line {
    flow: Flow,
    /// Of its first request.
    tag: u128,
    /// In the order of arrival.
    queued: VecDeque<Queued>,
}

impl Line {
    fn cost(&self) -> u128 {
        COST / u128::from(self.flow.weight.max(1))
    }

    /// Places that it has, by its weight.
    fn share(&self) -> u128 {
        self.queued.len() as u128 * self.cost()
    }
}

/// All requests that wait.
#[derive(Debug, Default)]
pub(crate) struct FairQueue {
    /// In the order of arrival.
    pub(crate) returned: Vec<Returned>,
    /// One for each flow that waits or lately did.
    lines: Vec<Line>,
    virtual_time: u128,
    /// In lines.
    num_queued: usize,
    /// In lines, and not decided.
    num_undecided: usize,
}

impl FairQueue {
    pub(crate) fn len(&self) -> usize {
        self.returned.len() + self.num_queued
    }

    /// Whether anybody waits who never had a replica.
    pub(crate) fn has_lines(&self) -> bool {
        self.num_queued > 0
    }

    /// Those in lines that know what they wish for.
    pub(crate) fn num_decided(&self) -> usize {
        self.num_queued - self.num_undecided
    }

    /// A request waits. Later ones have larger tickets.
    pub(crate) fn push(&mut self, flow: Flow, queued: Queued) {
        let time = self.virtual_time;
        let line = match self.lines.iter().position(|line| line.flow.id == flow.id) {
            Some(place) => &mut self.lines[place],
            None => {
                self.lines.push(Line { flow, tag: time, queued: VecDeque::new() });
                self.lines.last_mut().expect("it was just pushed")
            }
        };
        if line.queued.is_empty() {
            line.tag = line.tag.max(time);
        }
        line.flow = flow;
        self.num_queued += 1;
        self.num_undecided += usize::from(queued.is_undecided());
        line.queued.push_back(queued);
    }

    /// The next request of all lines for which `take` finds something, and what it found.
    pub(crate) fn pop_with<T>(
        &mut self,
        mut take: impl FnMut(&Queued) -> Option<T>,
    ) -> Option<(Ticket, T)> {
        let key = |line: &Line| (line.tag, line.queued.front().map(|queued| queued.ticket));
        let waiting = self.lines.iter().enumerate().filter(|(_, line)| !line.queued.is_empty());
        let (first, _) = waiting.min_by_key(|(_, line)| key(line))?;
        // Nearly always the first of the first line goes.
        if let Some(taken) = self.lines[first].queued.front().and_then(&mut take) {
            return self.serve(first, 0, taken);
        }
        let mut order: Vec<usize> = (0..self.lines.len()).collect();
        order.sort_by_key(|line| key(&self.lines[*line]));
        for line in order {
            let mut queued = self.lines[line].queued.iter().enumerate();
            let found = queued.find_map(|(place, queued)| Some((place, take(queued)?)));
            if let Some((place, taken)) = found {
                return self.serve(line, place, taken);
            }
        }
        None
    }

    fn serve<T>(&mut self, line: usize, place: usize, taken: T) -> Option<(Ticket, T)> {
        let line = &mut self.lines[line];
        let queued = line.queued.remove(place)?;
        self.virtual_time = self.virtual_time.max(line.tag);
        line.tag += line.cost();
        Some((self.left(&queued), taken))
    }

    /// A request that was in a line is not any more.
    fn left(&mut self, queued: &Queued) -> Ticket {
        self.num_queued -= 1;
        self.num_undecided -= usize::from(queued.is_undecided());
        self.forget();
        queued.ticket
    }

    /// A request minds no longer where it goes.
    pub(crate) fn forgive(&mut self, ticket: Ticket) {
        if let Ok(place) = self.returned.binary_search_by_key(&ticket, |other| other.ticket) {
            self.returned[place].avoid.clear();
        }
        for line in &mut self.lines {
            if let Ok(place) = line.queued.binary_search_by_key(&ticket, |queued| queued.ticket) {
                line.queued[place].takes_any = true;
            }
        }
    }

    /// A request that waits wishes for this from now on. False when it does not wait.
    pub(crate) fn decide(&mut self, ticket: Ticket, wish: Wish) -> bool {
        if let Ok(place) = self.returned.binary_search_by_key(&ticket, |other| other.ticket) {
            self.returned[place].wish = wish;
            return true;
        }
        for line in &mut self.lines {
            if let Ok(place) = line.queued.binary_search_by_key(&ticket, |queued| queued.ticket) {
                let queued = &mut line.queued[place];
                self.num_undecided -= usize::from(queued.is_undecided());
                queued.wish = wish;
                self.num_undecided += usize::from(queued.is_undecided());
                return true;
            }
        }
        false
    }

    /// A request comes back to its old place.
    pub(crate) fn come_back(&mut self, returned: Returned) {
        let place = self.returned.partition_point(|other| other.ticket < returned.ticket);
        self.returned.insert(place, returned);
    }

    /// A request waits no longer. False when it did not.
    pub(crate) fn cancel(&mut self, ticket: Ticket) -> bool {
        if let Ok(place) = self.returned.binary_search_by_key(&ticket, |other| other.ticket) {
            self.returned.remove(place);
            return true;
        }
        for line in &mut self.lines {
            if let Ok(place) = line.queued.binary_search_by_key(&ticket, |queued| queued.ticket) {
                let Some(queued) = line.queued.remove(place) else { return false };
                self.left(&queued);
                return true;
            }
        }
        false
    }

    /// The newest request of the flow that has the most places by its weight, if that is more than
    /// another flow would have with one more: that one is to have the place.
    pub(crate) fn displace_for(&mut self, flow: Flow) -> Option<Ticket> {
        let own = self.lines.iter().find(|line| line.flow.id == flow.id);
        let num_own = own.map_or(0, |line| line.queued.len()) as u128;
        let share = (num_own + 1) * (COST / u128::from(flow.weight.max(1)));
        let largest = self.lines.iter_mut().max_by_key(|line| line.share())?;
        if largest.share() <= share {
            return None;
        }
        let queued = largest.queued.pop_back()?;
        Some(self.left(&queued))
    }

    /// The newest request that has decided, of the flow that has the most places by its weight.
    pub(crate) fn displace_decided(&mut self) -> Option<Ticket> {
        let is_decided = |queued: &Queued| !queued.is_undecided();
        let with_some = self.lines.iter_mut().filter(|line| line.queued.iter().any(is_decided));
        let largest = with_some.max_by_key(|line| line.share())?;
        let place = largest.queued.iter().rposition(is_decided)?;
        let queued = largest.queued.remove(place)?;
        Some(self.left(&queued))
    }

    /// How many would be served before a new request of this flow.
    pub(crate) fn ahead_of(&self, flow: Flow) -> usize {
        let own = self.lines.iter().find(|line| line.flow.id == flow.id);
        let cost = COST / u128::from(flow.weight.max(1));
        let tag = own.map_or(self.virtual_time, |line| {
            line.tag.max(self.virtual_time) + line.queued.len() as u128 * cost
        });
        let before = |line: &Line| match tag.checked_sub(line.tag) {
            _ if line.flow.id == flow.id => line.queued.len(),
            Some(lead) => {
                let turns = usize::try_from(lead / line.cost() + 1).unwrap_or(usize::MAX);
                turns.min(line.queued.len())
            }
            None => 0,
        };
        self.returned.len() + self.lines.iter().map(before).sum::<usize>()
    }

    /// All requests, which wait no longer.
    pub(crate) fn drain(&mut self) -> Vec<Ticket> {
        let returned = self.returned.drain(..).map(|returned| returned.ticket);
        let mut all: Vec<Ticket> = returned.collect();
        let queued = self.lines.drain(..).flat_map(|line| line.queued);
        all.extend(queued.map(|queued| queued.ticket));
        all.sort_unstable();
        (self.num_queued, self.num_undecided, self.virtual_time) = (0, 0, 0);
        all
    }

    /// Flows whose tags say nothing more go.
    fn forget(&mut self) {
        if self.num_queued == 0 {
            self.lines.clear();
            self.virtual_time = 0;
        } else {
            let time = self.virtual_time;
            self.lines.retain(|line| !line.queued.is_empty() || line.tag > time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    impl FairQueue {
        fn put(&mut self, flow: Flow, ticket: Ticket) {
            self.push(flow, Queued { ticket, wish: Wish::Any, takes_any: false });
        }

        fn pop(&mut self) -> Option<Ticket> {
            self.pop_with(|_| Some(())).map(|(ticket, ())| ticket)
        }
    }

    fn flow(id: u64, weight: u32) -> Flow {
        Flow { id, weight }
    }

    #[test]
    fn who_was_idle_has_no_credit() {
        let mut queue = FairQueue::default();
        (0..10).for_each(|ticket| queue.put(flow(1, 1), ticket));
        (0..4).for_each(|ticket| assert_eq!(queue.pop(), Some(ticket)));
        // Had it waited all the time, it would now have four turns in a row.
        (10..20).for_each(|ticket| queue.put(flow(2, 1), ticket));
        let next: Vec<_> = (0..6).filter_map(|_| queue.pop()).collect();
        assert_eq!(next, [10, 4, 11, 5, 12, 6]);
    }

    #[test]
    fn a_full_queue_takes_from_who_has_most() {
        let mut queue = FairQueue::default();
        (0..6).for_each(|ticket| queue.put(flow(1, 3), ticket));
        assert_eq!(queue.ahead_of(flow(2, 1)), 1);
        assert_eq!(queue.displace_for(flow(2, 1)), Some(5));
        queue.put(flow(2, 1), 6);
        // Five of weight 3 are less than two of weight 1.
        assert_eq!(queue.displace_for(flow(2, 1)), None);
        assert_eq!(queue.displace_for(flow(1, 3)), None);
        assert_eq!((queue.ahead_of(flow(2, 1)), queue.ahead_of(flow(1, 3))), (5, 6));
        assert!(queue.cancel(2) && !queue.cancel(2));
        assert_eq!(queue.drain(), [0, 1, 3, 4, 6]);
        assert_eq!(queue.len(), 0);
    }

    proptest! {
        #[test]
        fn shares_follow_weights_within_one_request(
            weights in prop::collection::vec(1u32..20, 2..6),
            turns in 1usize..400,
        ) {
            let mut queue = FairQueue::default();
            let mut owners = BTreeMap::new();
            let mut ticket = 0;
            let mut served = vec![0u32; weights.len()];
            for _ in 0..turns {
                // All of them always have somebody who waits.
                for (id, weight) in weights.iter().enumerate() {
                    queue.put(flow(id as u64, *weight), ticket);
                    owners.insert(ticket, id);
                    ticket += 1;
                }
                served[owners[&queue.pop().unwrap()]] += 1;
                for (a, weight_a) in weights.iter().enumerate() {
                    for (b, weight_b) in weights.iter().enumerate() {
                        let (a, b) = (f64::from(served[a]), f64::from(served[b]));
                        let (a_turn, b_turn) = (1.0 / f64::from(*weight_a), 1.0 / f64::from(*weight_b));
                        prop_assert!((a * a_turn - b * b_turn).abs() <= a_turn + b_turn + 1e-9);
                    }
                }
            }
        }

        #[test]
        fn everybody_is_served_once_and_in_order_within_a_flow(
            steps in prop::collection::vec((0u64..4, 1u32..5, 0u8..4), 1..120),
        ) {
            let mut queue = FairQueue::default();
            let mut lines: BTreeMap<u64, VecDeque<Ticket>> = BTreeMap::new();
            for (ticket, (id, weight, what)) in steps.into_iter().enumerate() {
                let ticket = ticket as Ticket;
                let line = lines.entry(id).or_default();
                match what {
                    0 => {
                        let ahead = queue.ahead_of(flow(id, weight));
                        prop_assert!(ahead <= queue.len());
                        let newest = line.back().copied();
                        prop_assert_eq!(newest.is_some_and(|newest| queue.cancel(newest)), newest.is_some());
                        line.pop_back();
                    }
                    1 => {
                        let next = queue.pop();
                        let owner = lines.values_mut().find(|line| line.front().copied() == next);
                        prop_assert_eq!(owner.is_some_and(|line| line.pop_front().is_some()), next.is_some());
                    }
                    _ => {
                        queue.put(flow(id, weight), ticket);
                        line.push_back(ticket);
                    }
                }
                prop_assert_eq!(queue.len(), lines.values().map(VecDeque::len).sum::<usize>());
            }
            while let Some(next) = queue.pop() {
                let owner = lines.values_mut().find(|line| line.front() == Some(&next));
                prop_assert!(owner.is_some_and(|line| line.pop_front().is_some()));
            }
            prop_assert!(lines.values().all(VecDeque::is_empty));
        }

        #[test]
        fn with_one_flow_it_is_a_plain_queue(arrivals in prop::collection::vec(any::<bool>(), 1..60)) {
            let (mut queue, mut plain) = (FairQueue::default(), VecDeque::new());
            for (ticket, is_arrival) in arrivals.into_iter().enumerate() {
                if is_arrival {
                    prop_assert_eq!(queue.ahead_of(Flow::default()), plain.len());
                    prop_assert_eq!(queue.displace_for(Flow::default()), None);
                    queue.put(Flow::default(), ticket as Ticket);
                    plain.push_back(ticket as Ticket);
                } else {
                    prop_assert_eq!(queue.pop(), plain.pop_front());
                }
            }
        }
    }
}
