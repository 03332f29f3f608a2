//! A runtime of one thread that goes on looking for a moment before it sleeps.
//!
//! Where a core is woken from sleep for each message, as between a proxy and a replica that have one
//! request at a time, waking takes several times as long as the work. So a thread without work asks
//! the system again and again whether something has come, for [`SOON`] after the last bytes from a
//! connection, if its last sleep was shorter than that: traffic that comes less often costs nothing.
//! It is how hypervisors wait for a halted guest (Linux, `virt/kvm/halt-polling`). Between two looks
//! the core is offered to others; where one takes it, the thread sleeps.

use rustix::thread::sched_getaffinity;
use std::cell::Cell;
use std::future::poll_fn;
use std::io::Result;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// What comes so soon after the last is worth staying awake for. A core takes 15 to 40 µs to be
/// woken under a hypervisor, and a request passes several.
const SOON: Duration = Duration::from_micros(100);
/// A core that was offered and is back only after so long was wanted.
const TAKEN: Duration = Duration::from_micros(4);

thread_local! {
    static HAVE_COME: Cell<bool> = const { Cell::new(false) };
}

/// Notes whether a read on this thread has come to something.
pub(crate) fn noted<T>(read: Poll<T>) -> Poll<T> {
    if read.is_ready() {
        HAVE_COME.set(true);
    }
    read
}

/// Makes such a runtime. It only sleeps where this process has less than two cores, or a quota of
/// their time, which waiting would use up.
///
/// # Errors
/// When the system has no more threads or descriptors.
pub fn polling_runtime() -> Result<Runtime> {
    let mut builder = Builder::new_current_thread();
    builder.enable_all();
    if !has_cores_to_itself() {
        return builder.build();
    }
    let poller = Arc::new(Mutex::new(Poller::new(Instant::now())));
    let (parking, unparked) = (poller.clone(), poller.clone());
    let runtime = builder
        .on_thread_park(move || lock(&parking).before_sleep())
        .on_thread_unpark(move || lock(&unparked).patience.looked(Instant::now()))
        .build()?;
    // A task that never does anything: to have it woken keeps the thread from sleeping.
    runtime.spawn(poll_fn(move |cx| {
        let mut poller = lock(&poller);
        if poller.idler.is_none() {
            poller.idler = Some(cx.waker().clone());
        }
        Poll::<()>::Pending
    }));
    Ok(runtime)
}

fn has_cores_to_itself() -> bool {
    // Of these the first knows of quotas, the second does not.
    let usable = std::thread::available_parallelism().map_or(1, usize::from);
    let allowed = sched_getaffinity(None).map_or(0, |cores| cores.count() as usize);
    usable >= 2 && usable >= allowed
}

#[derive(Debug)]
struct Poller {
    patience: Patience,
    /// Of the task that does nothing.
    idler: Option<Waker>,
}

impl Poller {
    fn new(now: Instant) -> Self {
        Self { patience: Patience::new(now), idler: None }
    }

    fn before_sleep(&mut self) {
        if !self.patience.looks_again(HAVE_COME.take(), Instant::now()) {
            return;
        }
        std::thread::yield_now();
        if self.patience.is_back(Instant::now()) {
            self.idler.iter().for_each(Waker::wake_by_ref);
        }
    }
}

fn lock(poller: &Mutex<Poller>) -> std::sync::MutexGuard<'_, Poller> {
    poller.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a thread that has nothing to do looks again or sleeps. `now` is an argument.
#[derive(Debug)]
struct Patience {
    /// When it began to look or to sleep, or was done with it.
    mark: Instant,
    /// When it had nothing more to do after bytes had come.
    worked: Instant,
    /// It looks, and does not sleep.
    looks: bool,
    /// The last sleep was a short one.
    was_short: bool,
}

impl Patience {
    fn new(now: Instant) -> Self {
        Self { mark: now, worked: now, looks: false, was_short: false }
    }

    /// There is nothing more to do.
    fn looks_again(&mut self, have_come: bool, now: Instant) -> bool {
        if have_come {
            self.worked = now;
        }
        self.looks = self.was_short && now.saturating_duration_since(self.worked) < SOON;
        self.mark = now;
        self.looks
    }

    /// The core was offered to others: whether it still looks.
    fn is_back(&mut self, now: Instant) -> bool {
        self.looks = now.saturating_duration_since(self.mark) < TAKEN;
        self.mark = now;
        self.looks
    }

    /// It has looked, or slept.
    fn looked(&mut self, now: Instant) {
        if !self.looks {
            self.was_short = now.saturating_duration_since(self.mark) < SOON;
        }
        self.mark = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Body, Client, Handler, Listener, RequestBody, ServeOptions, read_body, serve, text,
    };
    use bytes::Bytes;
    use http::{Request, Response, StatusCode};
    use tokio::sync::oneshot;

    const US: Duration = Duration::from_micros(1);

    struct Thread {
        now: Instant,
        patience: Patience,
    }

    impl Thread {
        fn new() -> Self {
            let now = Instant::now();
            Self { now, patience: Patience::new(now) }
        }

        /// Works on what came, and has nothing more to do: whether it looks again.
        fn works(&mut self, time: Duration, others: Duration) -> bool {
            self.now += time;
            self.has_done(true, others)
        }

        /// Others may want its core.
        fn has_done(&mut self, have_come: bool, others: Duration) -> bool {
            let looks = self.patience.looks_again(have_come, self.now);
            self.now += others;
            looks && self.patience.is_back(self.now)
        }

        fn sleeps(&mut self, time: Duration) {
            self.now += time;
            self.patience.looked(self.now);
        }

        /// Looks until it sleeps, in vain.
        fn looks(&mut self) -> Duration {
            let since = self.now;
            loop {
                self.sleeps(US / 2);
                if !self.has_done(false, US / 5) {
                    return self.now - since;
                }
            }
        }
    }

    #[test]
    fn it_looks_for_a_moment_after_a_short_sleep() {
        let mut thread = Thread::new();
        assert!(!thread.works(US * 10, US), "it has never slept");
        thread.sleeps(US * 30);
        assert!(thread.works(US * 10, US));
        let looked = thread.looks();
        assert!(looked >= SOON - US * 2 && looked <= SOON + US * 2, "{looked:?}");
        // Nothing came for long.
        thread.sleeps(US * 500);
        assert!(!thread.works(US * 10, US));
        thread.sleeps(US * 90);
        assert!(thread.works(US * 10, US));
    }

    #[test]
    fn work_begins_the_moment_anew() {
        let mut thread = Thread::new();
        thread.works(US * 10, US);
        thread.sleeps(US * 30);
        for _ in 0..100 {
            assert!(thread.works(US * 10, US));
            for _ in 0..40 {
                thread.sleeps(US / 2);
                assert!(thread.has_done(false, US));
            }
        }
    }

    #[test]
    fn it_sleeps_where_others_want_the_core() {
        let mut thread = Thread::new();
        thread.works(US * 10, US);
        thread.sleeps(US * 30);
        assert!(!thread.works(US * 10, US * 5));
        // It was woken soon: it tries again.
        thread.sleeps(US * 20);
        assert!(thread.works(US * 10, US));
    }

    #[derive(Clone)]
    struct Told;

    impl Handler for Told {
        async fn handle(&self, request: Request<RequestBody>) -> Response<Body> {
            text(StatusCode::OK, request.uri().path().to_owned())
        }
    }

    #[test]
    fn nothing_is_missed_whether_it_looks_or_sleeps() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (stop, stopped) = oneshot::channel::<()>();
        let (bound, is_bound) = std::sync::mpsc::sync_channel(1);
        let socket = path.clone();
        let server = std::thread::spawn(move || {
            polling_runtime().unwrap().block_on(async {
                let listener = Listener::bind_unix(&socket).unwrap();
                bound.send(()).unwrap();
                serve(listener, Told, ServeOptions::default(), async { drop(stopped.await) }).await
            })
        });
        is_bound.recv().unwrap();
        polling_runtime().unwrap().block_on(async {
            let client = Client::unix(path);
            for i in 0..1_000 {
                let request = Request::get(format!("/{i}")).body(Bytes::new()).unwrap();
                let answer = client.send(request).await.unwrap();
                let body = read_body(answer.into_body(), 16).await.unwrap();
                assert_eq!(body, format!("/{i}"));
                // At once, and later than it looks.
                if i % 8 == 0 {
                    tokio::time::sleep(US * (i % 3) * 1_000).await;
                }
            }
        });
        drop(stop);
        assert_eq!(server.join().unwrap(), 0);
    }
}
