//! Worker threads that run one closure at a time, all that are free together.
//!
//! A region: (1) the caller publishes a pointer to its closure and opens the gate with the next
//! epoch; (2) it runs the closure as worker 0, and each worker that finds the gate open joins and
//! runs it with its own index; (3) when the caller is done it closes the gate, waits until all who
//! joined have left, and returns. A thread that comes too late, because it was parked or another
//! process has its core, misses the region and holds up nobody: closures take their tasks from a
//! common counter, so that the others do what it would have done. Waiting on either side spins for
//! a short while (a barrier then costs well under a microsecond) and parks after that, so an idle
//! pool takes no processor time.
//!
//! Races: epoch, openness and the count of those inside are one atomic, the gate, so nobody joins a
//! region that is over. A worker that decides to park counts itself in `parked` before it looks at
//! the gate again, and the caller looks at `parked` after it opened; both in one total order, so
//! one of them sees the other. The caller's own parking mirrors this with `caller_parked`.
//!
//! Floating-point environment: nobody changes it. Flush-to-zero on the workers alone would let the
//! bits of a row depend on the thread that computed it, and changing it on the calling thread
//! breaks the assumptions the compiler makes about all other code there. Denormals stay rare
//! instead: the exponential in softmax flushes its own, and the bf16 products of AVX-512 and AMX
//! flush theirs in hardware. Workers inherit the environment of the thread that made the pool.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fmt, io};

/// How long a thread spins before it parks, when every thread has a core of its own. It covers the
/// bookkeeping between two regions of a step; the gap between two steps may park.
const SPIN: Duration = Duration::from_micros(150);

/// The gate: its epoch in the upper half, then whether it is open, then how many workers are inside.
const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;

fn epoch(gate: u64) -> u64 {
    gate >> 32
}

/// What a region runs; the lifetime is erased because workers outlive it.
type Job = *const (dyn Fn(usize) + Sync);

/// Threads that compute; the caller of [`Pool::run`] is one of them.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held for a whole region: the closure slot has one writer.
    turn: Mutex<()>,
}

struct Shared {
    gate: AtomicU64,
    stop: AtomicBool,
    parked: AtomicUsize,
    caller_parked: AtomicBool,
    lock: Mutex<()>,
    work: Condvar,
    done: Condvar,
    job: UnsafeCell<Option<Job>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    spin: Duration,
}

// SAFETY: `job` is the only field that is not `Sync` (nor `Send`). The caller writes it while the
// gate is closed and nobody inside, and opens the gate after that; workers read it after they have
// joined and before they leave, and the caller waits for their leaving before it writes again or
// drops the closure.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is only followed inside a region.
unsafe impl Send for Shared {}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

impl Pool {
    /// Starts `threads - 1` workers.
    pub(crate) fn new(threads: usize) -> io::Result<Pool> {
        // Counts affinity masks and cgroup quotas. With fewer cores than threads a spinning thread
        // only takes time from the one it waits for.
        let usable = std::thread::available_parallelism().map_or(1, |n| n.get());
        let spin = if threads > usable { Duration::ZERO } else { SPIN };
        let cores = if threads == usable { allowed_cores() } else { Vec::new() };
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            parked: AtomicUsize::new(0),
            caller_parked: AtomicBool::new(false),
            lock: Mutex::new(()),
            work: Condvar::new(),
            done: Condvar::new(),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            spin,
        });
        let mut pool = Pool { shared, workers: Vec::new(), turn: Mutex::new(()) };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let core = cores.get(index).copied();
            let worker = std::thread::Builder::new().name(format!("tyndall-cpu-{index}"));
            pool.workers.push(worker.spawn(move || {
                pin(core);
                shared.work(index);
            })?);
        }
        Ok(pool)
    }

    /// Threads, the caller included.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `f(worker)` once on every thread that is free, the caller among them, and returns when
    /// all of these are done.
    ///
    /// A panic of any thread is resumed on the caller, after all have finished.
    fn run(&self, f: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() {
            return f(0);
        }
        let turn = lock(&self.turn);
        let shared = &*self.shared;
        // SAFETY: the transmute only erases the lifetime. Workers follow the pointer inside this
        // region alone, and this function does not return or unwind before `close` saw them leave.
        let job: Job = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(std::ptr::from_ref(f))
        };
        // SAFETY: no region runs (we hold `turn` and the last one was closed), so nobody reads.
        unsafe { *shared.job.get() = Some(job) };
        shared.open();
        let mine = catch_unwind(AssertUnwindSafe(|| f(0)));
        shared.close();
        let theirs = lock(&shared.panic).take();
        drop(turn);
        if let Some(payload) = mine.err().or(theirs) {
            resume_unwind(payload);
        }
    }

    /// Runs `f(worker)` once on every thread: they wait for each other before they begin.
    ///
    /// # Panics
    /// When `f` does, after all threads have finished.
    pub(crate) fn run_on_all(&self, f: &(dyn Fn(usize) + Sync)) {
        let arrived = AtomicUsize::new(0);
        self.run(&|worker| {
            arrived.fetch_add(1, Ordering::AcqRel);
            let is_there = || arrived.load(Ordering::Acquire) == self.threads();
            while !self.shared.spin_until(is_there) && !is_there() {
                std::thread::yield_now();
            }
            f(worker);
        });
    }

    /// Runs `f(worker, task)` for every task below `tasks`; threads take the next one when free.
    pub(crate) fn for_each(&self, tasks: usize, f: &(dyn Fn(usize, usize) + Sync)) {
        if tasks <= 1 || self.workers.is_empty() {
            return (0..tasks).for_each(|task| f(0, task));
        }
        let next = AtomicUsize::new(0);
        let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&task| task < tasks);
        self.run(&|worker| {
            while let Some(task) = take() {
                f(worker, task);
            }
        });
    }

    /// The same as `f(worker, task, next)`: a thread takes its next task before it begins one, so
    /// that it can ask for that one's memory meanwhile.
    pub(crate) fn for_each_ahead(
        &self,
        tasks: usize,
        f: &(dyn Fn(usize, usize, Option<usize>) + Sync),
    ) {
        let next = AtomicUsize::new(0);
        let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&task| task < tasks);
        let work = |worker| {
            let mut mine = take();
            while let Some(task) = mine {
                mine = take();
                f(worker, task, mine);
            }
        };
        if tasks <= 1 { work(0) } else { self.run(&work) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.open();
        for worker in self.workers.drain(..) {
            // A worker catches every panic of a closure; there is nothing left to report here.
            drop(worker.join());
        }
    }
}

impl Shared {
    /// A worker's life.
    fn work(&self, index: usize) {
        let mut seen = 0;
        loop {
            seen = self.next_epoch(seen);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            if !self.join(seen) {
                continue;
            }
            // SAFETY: acquired with the gate; the caller does not write while this thread is inside.
            let job = unsafe { *self.job.get() }.expect("a region starts with a closure");
            let result = catch_unwind(AssertUnwindSafe(|| {
                // SAFETY: the closure lives until the caller has seen everybody leave, which this
                // thread does after the call.
                unsafe { (*job)(index) }
            }));
            if let Err(payload) = result {
                lock(&self.panic).get_or_insert(payload);
            }
            self.leave();
        }
    }

    /// Enters the region of this epoch; false when it is over.
    fn join(&self, seen: u64) -> bool {
        let enter = |gate| (epoch(gate) == seen && gate & OPEN != 0).then_some(gate + 1);
        self.gate.fetch_update(Ordering::SeqCst, Ordering::Relaxed, enter).is_ok()
    }

    fn leave(&self) {
        let before = self.gate.fetch_sub(1, Ordering::SeqCst);
        let is_last = before & (OPEN | INSIDE) == 1;
        if is_last && self.caller_parked.load(Ordering::SeqCst) {
            drop(lock(&self.lock));
            self.done.notify_all();
        }
    }

    /// Waits until the epoch is not `seen` and returns it.
    fn next_epoch(&self, seen: u64) -> u64 {
        let now = || epoch(self.gate.load(Ordering::SeqCst));
        if self.spin_until(|| now() != seen) {
            return now();
        }
        let mut guard = lock(&self.lock);
        self.parked.fetch_add(1, Ordering::SeqCst);
        while now() == seen {
            guard = self.work.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.parked.fetch_sub(1, Ordering::SeqCst);
        now()
    }

    /// Begins the next epoch; nobody is inside.
    fn open(&self) {
        let next = epoch(self.gate.load(Ordering::Relaxed)).wrapping_add(1) << 32;
        self.gate.store(next | OPEN, Ordering::SeqCst);
        if self.parked.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.lock));
            self.work.notify_all();
        }
    }

    /// Lets nobody in any more, and waits until those inside have left.
    fn close(&self) {
        let inside = |gate: u64| gate & INSIDE;
        if inside(self.gate.fetch_and(!OPEN, Ordering::SeqCst)) == 0
            || self.spin_until(|| inside(self.gate.load(Ordering::SeqCst)) == 0)
        {
            return;
        }
        let mut guard = lock(&self.lock);
        self.caller_parked.store(true, Ordering::SeqCst);
        while inside(self.gate.load(Ordering::SeqCst)) != 0 {
            guard = self.done.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_parked.store(false, Ordering::SeqCst);
    }

    /// Spins until `ready` or until the time for that is over; returns whether it became ready.
    fn spin_until(&self, ready: impl Fn() -> bool) -> bool {
        if ready() {
            return true;
        }
        if self.spin.is_zero() {
            return false;
        }
        let start = Instant::now();
        loop {
            for _ in 0..32 {
                std::hint::spin_loop();
                if ready() {
                    return true;
                }
            }
            if start.elapsed() > self.spin {
                return false;
            }
        }
    }
}

/// Nothing is left half-changed by a panic while one of these locks is held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The cores this process may run on, in order.
#[cfg(target_os = "linux")]
fn allowed_cores() -> Vec<usize> {
    use rustix::thread::{CpuSet, sched_getaffinity};
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect()
}

/// Keeps a worker on one core. Only done when the pool takes every core anyway; failing to pin is
/// harmless, as placement never changes results.
#[cfg(target_os = "linux")]
fn pin(core: Option<usize>) {
    use rustix::thread::{CpuSet, sched_setaffinity};
    if let Some(core) = core {
        let mut set = CpuSet::new();
        set.set(core);
        sched_setaffinity(None, &set).unwrap_or(());
    }
}

#[cfg(not(target_os = "linux"))]
fn allowed_cores() -> Vec<usize> {
    Vec::new()
}

#[cfg(not(target_os = "linux"))]
fn pin(_core: Option<usize>) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_runs_each_region_once() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads).unwrap();
            let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..500 {
                pool.run_on_all(&|worker| {
                    counts[worker].fetch_add(1, Ordering::Relaxed);
                });
            }
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 500), "{threads}");
        }
    }

    #[test]
    fn who_comes_after_the_end_of_a_region_does_not_join_it() {
        let pool = Pool::new(1).unwrap();
        let shared = &pool.shared;
        let now = || epoch(shared.gate.load(Ordering::SeqCst));
        assert!(!shared.join(now()), "nothing runs");
        shared.open();
        assert!(shared.join(now()) && !shared.join(now() + 1));
        std::thread::scope(|scope| {
            let closing = scope.spawn(|| shared.close());
            while shared.gate.load(Ordering::SeqCst) & OPEN != 0 {
                std::thread::yield_now();
            }
            assert!(!shared.join(now()) && !closing.is_finished());
            shared.leave();
        });
        let late = now();
        shared.open();
        assert!(!shared.join(late));
        shared.close();
        assert_eq!(shared.gate.load(Ordering::SeqCst) & (OPEN | INSIDE), 0);
    }

    #[test]
    fn tasks_are_taken_exactly_once() {
        for (threads, tasks) in [(1, 7), (2, 0), (2, 1), (2, 1000), (4, 3)] {
            let pool = Pool::new(threads).unwrap();
            let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            pool.for_each(tasks, &|_, task| {
                counts[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{threads} {tasks}");
        }
    }

    #[test]
    fn a_thread_knows_its_next_task_before_it_begins_one() {
        for (threads, tasks) in [(1, 0), (1, 7), (2, 1), (3, 40)] {
            let pool = Pool::new(threads).unwrap();
            let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            let told: Vec<_> = (0..threads).map(|_| Mutex::new(None)).collect();
            pool.for_each_ahead(tasks, &|worker, task, next| {
                counts[task].fetch_add(1, Ordering::Relaxed);
                let promised = told[worker].lock().unwrap().replace(next);
                assert!(promised.is_none_or(|promised| promised == Some(task)));
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            let last = |told: &Mutex<Option<Option<usize>>>| told.lock().unwrap().flatten();
            assert!(told.iter().all(|told| last(told).is_none()));
        }
    }

    #[test]
    fn a_panic_on_any_thread_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3).unwrap();
        for bad in 0..3 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run_on_all(&|worker| assert_ne!(worker, bad, "worker {bad} fails"));
            }));
            assert!(result.is_err(), "{bad}");
            let alive = AtomicUsize::new(0);
            pool.run_on_all(&|_| {
                alive.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(alive.load(Ordering::Relaxed), 3);
        }
    }

    #[test]
    fn a_parked_pool_wakes_and_callers_take_turns() {
        let pool = Pool::new(2).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while pool.shared.parked.load(Ordering::SeqCst) == 0 {
            assert!(Instant::now() < deadline, "the idle worker never parked");
            std::thread::yield_now();
        }
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        pool.run_on_all(&|_| {
                            total.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(total.load(Ordering::Relaxed), 600);
    }
}
