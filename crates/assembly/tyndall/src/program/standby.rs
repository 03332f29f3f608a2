//! A thread that answers for a replica whose only thread is held up by its code, so that a health
//! check of one that is busy has an answer.

use super::host::App;
use std::io::Result;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{oneshot, watch};
use tyndall_transport::{Listener, ServeOptions, serve};

/// Serves what waits at the listener for long, until `stopped` and a drain, and tells then how many
/// connections were cut.
///
/// # Errors
/// When the system has no more threads or descriptors.
pub(super) fn begin(
    listener: &Listener,
    app: App,
    options: ServeOptions,
    stopped: watch::Receiver<()>,
) -> Result<oneshot::Receiver<usize>> {
    let runtime = Standby(Some(Builder::new_current_thread().enable_all().build()?));
    let standby = {
        let _on = runtime.get().enter();
        listener.standby()?
    };
    let (done, cut) = oneshot::channel();
    std::thread::Builder::new().name("standby".to_owned()).spawn(move || {
        let cut = runtime.get().block_on(serve(standby, app, options, end_of(stopped)));
        if done.send(cut).is_err() {
            tracing::debug!("the replica has not waited for what stands by");
        }
    })?;
    Ok(cut)
}

/// A runtime that may be dropped on a thread of another one, which of itself panics there.
struct Standby(Option<Runtime>);

impl Standby {
    fn get(&self) -> &Runtime {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Resolves when the other end of the channel is gone.
pub(super) async fn end_of(mut stopped: watch::Receiver<()>) {
    while stopped.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_does_not_begin_goes_without_a_panic() {
        drop(Standby(Some(Builder::new_current_thread().enable_all().build().unwrap())));
    }
}
