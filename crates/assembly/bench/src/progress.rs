//! Bars on a terminal; nothing elsewhere, so that logs and pipes stay clean.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// One step of a benchmark that is under way.
#[derive(Debug, Clone)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Something of known size.
    pub(crate) fn of(what: &str, total: u64) -> Self {
        let template = "{msg:28} {wide_bar} {pos:>6} of {len:<6} {elapsed:>4}";
        Self::new(what, ProgressBar::new(total), template)
    }

    /// Something of unknown size.
    pub(crate) fn spinner(what: &str) -> Self {
        Self::new(what, ProgressBar::no_length(), "{spinner} {msg} {elapsed}")
    }

    fn new(what: &str, bar: ProgressBar, template: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    pub(crate) fn set(&self, done: u64) {
        self.0.set_position(done);
    }

    pub(crate) fn advance(&self) {
        self.0.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
