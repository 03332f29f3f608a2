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
    let (give, taken) = oneshot::channel::<(Runtime, Listener)>();
    let (done, cut) = oneshot::channel();
    std::thread::Builder::new().name("standby".to_owned()).spawn(move || {
        let Ok((runtime, standby)) = taken.blocking_recv() else { return };
        let cut = runtime.block_on(serve(standby, app, options, end_of(stopped)));
        if done.send(cut).is_err() {
            tracing::debug!("the replica has not waited for what stands by");
        }
    })?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let standby = {
        let _on = runtime.enter();
        listener.standby()
    };
    // Dropped here, on a thread of another runtime, this one would panic.
    match standby {
        Ok(standby) => {
            if let Err((runtime, _)) = give.send((runtime, standby)) {
                runtime.shutdown_background();
            }
            Ok(cut)
        }
        Err(error) => {
            runtime.shutdown_background();
            Err(error)
        }
    }
}

/// Resolves when the other end of the channel is gone.
pub(super) async fn end_of(mut stopped: watch::Receiver<()>) {
    while stopped.changed().await.is_ok() {}
}
