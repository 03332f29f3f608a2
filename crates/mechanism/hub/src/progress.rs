//! How a download tells that it moves.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Is told what happens to each file; called from several threads.
pub trait Progress: Send + Sync {
    /// A file begins, or begins again, with so many bytes on disk.
    fn started(&self, file: &str, total_bytes: Option<u64>, resumed_bytes: u64);
    /// So many further bytes came.
    fn advanced(&self, file: &str, bytes: u64);
    /// A try failed; the next one follows after `wait`.
    fn retrying(&self, file: &str, reason: &str, wait: Duration);
    /// The file is whole and verified.
    fn finished(&self, file: &str);
}

/// Bars when standard error is a terminal, plain lines else.
#[must_use]
pub fn for_terminal() -> Box<dyn Progress> {
    if std::io::stderr().is_terminal() { Box::new(Bars::default()) } else { Box::new(Lines) }
}

/// Says nothing.
#[derive(Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn started(&self, _: &str, _: Option<u64>, _: u64) {}
    fn advanced(&self, _: &str, _: u64) {}
    fn retrying(&self, _: &str, _: &str, _: Duration) {}
    fn finished(&self, _: &str) {}
}

/// One line on standard error per event, for logs.
#[derive(Debug, Default)]
pub struct Lines;

impl Lines {
    fn say(line: std::fmt::Arguments<'_>) {
        // A closed standard error must not end a download.
        drop(writeln!(std::io::stderr(), "{line}"));
    }
}

impl Progress for Lines {
    fn started(&self, file: &str, total_bytes: Option<u64>, resumed_bytes: u64) {
        let size = total_bytes.map_or_else(|| "size unknown".to_owned(), human_bytes);
        if resumed_bytes == 0 {
            Self::say(format_args!("downloading {file} ({size})"));
        } else {
            let have = human_bytes(resumed_bytes);
            Self::say(format_args!("downloading {file} ({size}), going on at {have}"));
        }
    }

    fn advanced(&self, _: &str, _: u64) {}

    fn retrying(&self, file: &str, reason: &str, wait: Duration) {
        let wait_s = wait.as_secs_f64();
        Self::say(format_args!("{file}: {reason}; next try in {wait_s:.1} s"));
    }

    fn finished(&self, file: &str) {
        Self::say(format_args!("downloaded {file}"));
    }
}

/// A bar per file on standard error.
#[derive(Debug, Default)]
pub struct Bars {
    screen: MultiProgress,
    bars: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    fn with(&self, file: &str, act: impl FnOnce(&ProgressBar)) {
        let bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = bars.get(file) {
            act(bar);
        }
    }
}

impl Progress for Bars {
    fn started(&self, file: &str, total_bytes: Option<u64>, resumed_bytes: u64) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(file.to_owned()).or_insert_with(|| {
            let style = ProgressStyle::with_template(
                "{msg:34!} {wide_bar} {bytes:>11} of {total_bytes:>11} {bytes_per_sec:>13} {eta:>4}",
            )
            .unwrap_or_else(|_| ProgressStyle::default_bar());
            self.screen.add(ProgressBar::no_length().with_style(style))
        });
        bar.set_message(file.to_owned());
        if let Some(total) = total_bytes {
            bar.set_length(total);
        }
        bar.set_position(resumed_bytes);
        bar.reset_eta();
    }

    fn advanced(&self, file: &str, bytes: u64) {
        self.with(file, |bar| bar.inc(bytes));
    }

    fn retrying(&self, file: &str, reason: &str, wait: Duration) {
        let wait_s = wait.as_secs_f64();
        self.with(file, |bar| bar.set_message(format!("{file}: {reason}, again in {wait_s:.1} s")));
    }

    fn finished(&self, file: &str) {
        self.with(file, |bar| bar.finish_with_message(file.to_owned()));
    }
}

fn human_bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}
