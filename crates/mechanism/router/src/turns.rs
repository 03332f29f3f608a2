//! Who asks a router next of those for whom it had nobody while all replicas were full: the oldest first,
//! and as many at a time as there is room for. A router that leaves out what is full says nothing of a
//! request then, so that it must be asked again; who comes later does not overtake.

use std::collections::BTreeMap;
use tokio::sync::oneshot;
use tyndall_routing::Ticket;

/// The line.
#[derive(Debug, Default)]
pub(crate) struct Turns(BTreeMap<Ticket, Turn>);

#[derive(Debug)]
enum Turn {
    Waits(oneshot::Sender<()>),
    Asks,
}

impl Turns {
    /// Whether a request may ask now; else what resolves when it may.
    pub(crate) fn take(&mut self, ticket: Ticket, room: u64) -> Option<oneshot::Receiver<()>> {
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let before = self.0.range(..ticket).take(room.max(1)).count();
        if before >= room.max(1) {
            return Some(self.wait(ticket));
        }
        if let Some(turn) = self.0.get_mut(&ticket) {
            *turn = Turn::Asks;
        }
        None
    }

    /// A request stands in the line.
    pub(crate) fn wait(&mut self, ticket: Ticket) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.0.insert(ticket, Turn::Waits(sender));
        receiver
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// It does not any more.
    pub(crate) fn leave(&mut self, ticket: Ticket) {
        self.0.remove(&ticket);
    }

    /// So many have room.
    pub(crate) fn grant(&mut self, room: u64) {
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        for turn in self.0.values_mut().take(room) {
            if let Turn::Waits(sender) = std::mem::replace(turn, Turn::Asks) {
                // One that has gone away leaves the line next.
                sender.send(()).unwrap_or_default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_ask_first_and_as_many_as_have_room() {
        let mut turns = Turns::default();
        let is_granted = |turn: &mut oneshot::Receiver<()>| turn.try_recv().is_ok();
        assert!(turns.take(5, 0).is_none(), "nobody is before it");
        let mut second = turns.wait(2);
        let mut first = turns.wait(1);
        let mut third = turns.take(3, 1).expect("two are before it");
        assert!(turns.take(4, 4).is_none(), "three are, and four have room");
        turns.grant(0);
        assert!(!is_granted(&mut first));
        turns.grant(1);
        assert!(is_granted(&mut first) && !is_granted(&mut second));
        // It still asks: the room is its own.
        turns.grant(1);
        assert!(!is_granted(&mut second));
        turns.grant(2);
        assert!(is_granted(&mut second) && !is_granted(&mut third));
        // Somebody else was faster: it stands where it stood.
        let mut first = turns.wait(1);
        turns.leave(2);
        turns.grant(1);
        assert!(is_granted(&mut first) && !is_granted(&mut third));
        turns.leave(1);
        turns.grant(1);
        assert!(is_granted(&mut third));
    }
}
