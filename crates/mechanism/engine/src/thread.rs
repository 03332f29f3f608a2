//! The engine's thread: when it works, when it sleeps, how it ends.

use crate::StopCause;
use crate::active::{End, NewRequest};
use crate::shared::Shared;
use crate::step_loop::StepLoop;
use std::any::Any;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};

/// What a handle sends.
#[derive(Debug)]
pub(crate) enum Command {
    /// Boxed, because the channel reserves room for all of its places.
    Add(Box<NewRequest>),
    /// Look at the flags.
    Wake,
}

/// Starts the engine's thread; if that fails, the engine is stopped.
pub(crate) fn spawn(step_loop: StepLoop, commands: Receiver<Command>, shared: Arc<Shared>) {
    let for_thread = Arc::clone(&shared);
    spawn_named("engine", &shared, move || run(step_loop, &commands, &for_thread));
}

/// Starts a thread that works for an engine; if that fails, the engine is stopped.
pub(crate) fn spawn_named(name: &str, shared: &Shared, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = std::thread::Builder::new().name(name.to_owned()).spawn(work) {
        let reason = format!("failed to start the engine's thread: {error}").into();
        shared.set_stop_cause(StopCause::Failed { reason });
        shared.set_ended();
    }
}

/// How the work of an engine's thread ended.
pub(crate) enum Outcome {
    /// It was told to end.
    Done,
    /// Why it cannot go on.
    Panicked(String),
}

/// Works; what it worked on is used after a panic for nothing but to tell every request of it.
pub(crate) fn guarded(work: impl FnOnce()) -> Outcome {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(()) => Outcome::Done,
        Err(panic) => {
            let reason = format!("the engine panicked: {}", panic_message(&*panic));
            tracing::error!(%reason, "engine stopped");
            Outcome::Panicked(reason)
        }
    }
}

fn run(mut step_loop: StepLoop, commands: &Receiver<Command>, shared: &Shared) {
    let (cause, end) = match guarded(|| work(&mut step_loop, commands, shared)) {
        Outcome::Done => (StopCause::Shutdown, End::Abort),
        Outcome::Panicked(reason) => {
            (StopCause::Failed { reason: reason.as_str().into() }, End::Error { message: reason })
        }
    };
    // Requests that arrive from here on are refused, or found by the loop below, or answered by
    // their own stream when the channel is gone.
    shared.set_stop_cause(cause);
    let told = catch_unwind(AssertUnwindSafe(|| {
        while let Ok(command) = commands.try_recv() {
            if let Command::Add(request) = command {
                step_loop.reject(*request, &end);
            }
        }
        step_loop.end_all(&end);
    }));
    if told.is_err() {
        tracing::error!("requests were lost because the engine's observer panicked");
    }
    drop(step_loop);
    shared.set_ended();
}

/// Steps until it is told to end.
fn work(step_loop: &mut StepLoop, commands: &Receiver<Command>, shared: &Shared) {
    loop {
        if step_loop.is_idle() {
            step_loop.rest();
            let Ok(command) = commands.recv() else { return };
            take(step_loop, command);
        }
        if drain(step_loop, commands).is_break() || shared.shutdown.load(Ordering::Acquire) {
            return;
        }
        step_loop.abort_cancelled();
        if !step_loop.is_idle() {
            step_loop.step();
        }
    }
}

/// Takes all that was sent; breaks when no handle is left.
fn drain(step_loop: &mut StepLoop, commands: &Receiver<Command>) -> ControlFlow<()> {
    loop {
        match commands.try_recv() {
            Ok(command) => take(step_loop, command),
            Err(TryRecvError::Empty) => return ControlFlow::Continue(()),
            Err(TryRecvError::Disconnected) => return ControlFlow::Break(()),
        }
    }
}

fn take(step_loop: &mut StepLoop, command: Command) {
    match command {
        Command::Add(request) => step_loop.add(*request),
        Command::Wake => {}
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}
