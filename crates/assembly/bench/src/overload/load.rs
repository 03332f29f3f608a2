//! What sends: clients that wait for their answers, and requests that come whatever happens.

use super::tally::{Came, Tally};
use super::wire::{Connection, Reply};
use crate::random::Random;
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Sends one request over connections that are kept open.
#[derive(Debug)]
pub(super) struct Asker {
    address: SocketAddr,
    request: Bytes,
    deadline: Duration,
    /// The one that was used last is used first, so that few are open where few are needed.
    idle: Mutex<Vec<Connection>>,
}

/// What the requests of a phase share.
#[derive(Debug)]
struct Phase {
    start: Instant,
    tally: Mutex<Tally>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Asker {
    pub(super) fn new(address: SocketAddr, request: Bytes, deadline: Duration) -> Self {
        Self { address, request, deadline, idle: Mutex::default() }
    }

    /// Asks once, without a deadline: the replica may still start.
    pub(super) async fn first(&self) -> Result<(), String> {
        match came(self.exchange().await) {
            Came::Answered => Ok(()),
            Came::Refused => Err("it refuses the first request".to_owned()),
            Came::Lost(why) => Err(why),
        }
    }

    /// Closes what is open and idle.
    pub(super) fn close(&self) {
        lock(&self.idle).clear();
    }

    async fn exchange(&self) -> Result<Reply, String> {
        let idle = lock(&self.idle).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection::open(self.address).await?,
        };
        let reply = connection.exchange(&self.request).await?;
        if reply.is_kept {
            lock(&self.idle).push(connection);
        }
        Ok(reply)
    }

    async fn ask(&self, phase: &Phase) {
        let begin = Instant::now();
        let exchanged = tokio::time::timeout(self.deadline, self.exchange()).await;
        let late = || Err("no answer by the deadline".to_owned());
        let came = came(exchanged.unwrap_or_else(|_| late()));
        let at_s = phase.start.elapsed().as_secs_f64();
        lock(&phase.tally).ended(at_s, begin.elapsed(), came);
    }
}

fn came(exchanged: Result<Reply, String>) -> Came {
    match exchanged {
        Ok(Reply { status: 200, .. }) => Came::Answered,
        Ok(Reply { status: 429 | 503, has_retry_after: true, .. }) => Came::Refused,
        Ok(Reply { status, .. }) => Came::Lost(format!("status {status}")),
        Err(why) => Came::Lost(why),
    }
}

/// So many clients, each of which asks again when it has its answer.
pub(super) async fn closed(asker: &Arc<Asker>, clients: u32, seconds: f64, warmup_s: f64) -> Tally {
    let phase = Phase::new(seconds, warmup_s);
    let until = phase.start + Duration::from_secs_f64(seconds.min(86_400.0));
    let mut asking = JoinSet::new();
    for _ in 0..clients {
        let (asker, phase) = (asker.clone(), phase.clone());
        asking.spawn(async move {
            while Instant::now() < until {
                lock(&phase.tally).sent();
                asker.ask(&phase).await;
            }
        });
    }
    phase.end(asking).await
}

/// Requests that come at random, so many per second on average.
pub(super) async fn open(
    asker: &Arc<Asker>,
    rate: f64,
    seconds: f64,
    warmup_s: f64,
    mut random: Random,
) -> Tally {
    let phase = Phase::new(seconds, warmup_s);
    let mut asking = JoinSet::new();
    let mut at_s = random.exponential() / rate;
    while at_s < seconds {
        // The timer is no finer than a millisecond: what is due by then comes at once.
        tokio::time::sleep_until((phase.start + Duration::from_secs_f64(at_s)).into()).await;
        let now_s = phase.start.elapsed().as_secs_f64();
        while at_s < now_s.min(seconds) {
            lock(&phase.tally).sent();
            let (asker, of) = (asker.clone(), phase.clone());
            asking.spawn(async move { asker.ask(&of).await });
            at_s += random.exponential() / rate;
        }
        while asking.try_join_next().is_some() {}
    }
    phase.end(asking).await
}

impl Phase {
    fn new(seconds: f64, warmup_s: f64) -> Arc<Self> {
        let tally = Mutex::new(Tally::new(seconds, warmup_s));
        Arc::new(Self { start: Instant::now(), tally })
    }

    /// Waits for the requests that are left.
    async fn end(self: Arc<Self>, mut asking: JoinSet<()>) -> Tally {
        while asking.join_next().await.is_some() {}
        let took_s = self.start.elapsed().as_secs_f64();
        let mut tally = lock(&self.tally);
        let mut tally = std::mem::replace(&mut *tally, Tally::new(1.0, 0.0));
        tally.close(took_s);
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_answers_refusals_or_losses() {
        let reply = |status, has_retry_after| Ok(Reply { status, has_retry_after, is_kept: true });
        assert_eq!(came(reply(200, false)), Came::Answered);
        assert_eq!(came(reply(503, true)), Came::Refused);
        assert_eq!(came(reply(429, true)), Came::Refused);
        assert_eq!(came(reply(503, false)), Came::Lost("status 503".to_owned()));
        assert_eq!(came(reply(504, true)), Came::Lost("status 504".to_owned()));
        assert_eq!(came(Err("gone".to_owned())), Came::Lost("gone".to_owned()));
    }
}
