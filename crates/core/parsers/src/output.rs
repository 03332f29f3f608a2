//! Collects deltas: joins neighbours, counts calls, holds white space back.

use tyndall_types::MessageDelta;

/// Where machines write what they have read.
#[derive(Debug, Default)]
pub(crate) struct Output {
    deltas: Vec<MessageDelta>,
    /// White space that is content only if text comes before the next call.
    blank: String,
    /// Content other than white space came, since the begin or since the last call.
    has_text: bool,
    /// White space is held back at all: without tools nothing can make it superfluous.
    holds_blank: bool,
    calls: u32,
    is_parallel: bool,
    /// The running call is one too many.
    is_muted: bool,
    muted: String,
}

impl Output {
    pub(crate) fn new(holds_blank: bool, is_parallel: bool) -> Self {
        Self { holds_blank, is_parallel, ..Self::default() }
    }

    /// What came since the last time.
    pub(crate) fn take(&mut self) -> Vec<MessageDelta> {
        std::mem::take(&mut self.deltas)
    }

    /// Calls that were given out.
    pub(crate) fn num_calls(&self) -> u32 {
        self.calls
    }

    /// Nothing but white space was content, and nothing was called.
    pub(crate) fn is_at_start(&self) -> bool {
        !self.has_text && self.calls == 0
    }

    pub(crate) fn reasoning(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        if let Some(MessageDelta::Reasoning(so_far)) = self.deltas.last_mut() {
            so_far.push_str(text);
        } else {
            self.deltas.push(MessageDelta::Reasoning(text.to_owned()));
        }
    }

    pub(crate) fn content(&mut self, text: &str) {
        if self.has_text || !self.holds_blank {
            return self.push_content(text);
        }
        if text.trim_start().is_empty() {
            return self.blank.push_str(text);
        }
        self.has_text = true;
        let blank = std::mem::take(&mut self.blank);
        self.push_content(&blank);
        self.push_content(text);
    }

    pub(crate) fn begin_call(&mut self, name: &str) {
        self.blank.clear();
        self.has_text = false;
        self.is_muted = self.calls > 0 && !self.is_parallel;
        if self.is_muted {
            return;
        }
        self.deltas.push(MessageDelta::ToolCall { index: self.calls, name: name.to_owned() });
        self.calls += 1;
    }

    pub(crate) fn arguments(&mut self, text: &str) {
        self.write_arguments(|fragment| fragment.push_str(text));
    }

    /// Lets a machine write into the running call's fragment.
    pub(crate) fn write_arguments<R>(&mut self, write: impl FnOnce(&mut String) -> R) -> R {
        if self.is_muted || self.calls == 0 {
            self.muted.clear();
            return write(&mut self.muted);
        }
        if let Some(MessageDelta::Arguments { fragment, .. }) = self.deltas.last_mut() {
            return write(fragment);
        }
        let mut fragment = String::new();
        let result = write(&mut fragment);
        if !fragment.is_empty() {
            self.deltas.push(MessageDelta::Arguments { index: self.calls - 1, fragment });
        }
        result
    }

    /// White space is content after all where nothing was called.
    pub(crate) fn finish(&mut self) {
        let blank = std::mem::take(&mut self.blank);
        if self.calls == 0 {
            self.push_content(&blank);
        }
    }

    fn push_content(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        if let Some(MessageDelta::Content(so_far)) = self.deltas.last_mut() {
            so_far.push_str(text);
        } else {
            self.deltas.push(MessageDelta::Content(text.to_owned()));
        }
    }
}
