//! Bringing weights into reach before the first step asks for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::checkpoint::TensorBytes;

/// Bytes between looks at the stop flag.
const STRIDE: usize = 8 << 20;

/// A thread that maps the pages of all weights, in the order of the layers. Dropping it ends the
/// work.
pub struct Prefault {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Prefault {
    pub(crate) fn start(tensors: Vec<TensorBytes>) -> std::io::Result<Prefault> {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("prefault".into())
            .spawn(move || touch(&tensors, &seen))?;
        Ok(Prefault { stop, thread: Some(thread) })
    }

    /// Waits for the end and returns the number of bytes in reach.
    pub fn wait(mut self) -> u64 {
        self.join()
    }

    fn join(&mut self) -> u64 {
        self.thread.take().map_or(0, |thread| thread.join().unwrap_or(0))
    }
}

impl Drop for Prefault {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.join();
    }
}

fn touch(tensors: &[TensorBytes], stop: &AtomicBool) -> u64 {
    let mut bytes = 0;
    for tensor in tensors {
        let TensorBytes::Mapped(map, range) = tensor else {
            continue; // Copies are in memory already.
        };
        for start in range.clone().step_by(STRIDE) {
            let part = start..range.end.min(start + STRIDE);
            // A disk that fails here will fail the step that needs the page, and be reported then.
            if stop.load(Ordering::Relaxed) || map.prefault(part.clone()).is_err() {
                return bytes;
            }
            bytes += part.len() as u64;
        }
    }
    bytes
}
