//! How the event streams of each API end.

use tyndall_openai::ApiError;

/// The last event of OpenAI's older routes.
const DONE: &str = "data: [DONE]\n\n";

/// Events that end a stream of Anthropic's, as they begin.
const MESSAGES_ENDS: [&str; 2] = ["event: message_stop\n", "event: error\n"];

/// Events that end a stream of responses, as they begin.
const RESPONSES_ENDS: [&str; 4] = [
    "event: response.completed\n",
    "event: response.incomplete\n",
    "event: response.failed\n",
    "event: error\n",
];

/// The events of one stream, as far as they were passed on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum EventStream {
    /// Of OpenAI's older routes.
    OpenAi,
    /// Of Anthropic's.
    Messages,
    /// Of responses, with the number of the last event.
    Responses { sequence_number: u64 },
}

impl EventStream {
    /// A stream of responses that has not begun.
    pub(crate) const RESPONSES: Self = Self::Responses { sequence_number: 0 };

    /// Takes note of whole events; true when the last one of the stream is among them.
    pub(crate) fn pass(&mut self, events: &[u8]) -> bool {
        match self {
            Self::OpenAi => events.ends_with(DONE.as_bytes()),
            Self::Messages => has_event(events, &MESSAGES_ENDS),
            Self::Responses { sequence_number } => {
                if let Some(number) = last_number(events) {
                    *sequence_number = number;
                }
                has_event(events, &RESPONSES_ENDS)
            }
        }
    }

    /// The events that end a stream by an error.
    pub(crate) fn failed(&self, error: &ApiError) -> String {
        match self {
            Self::OpenAi => format!("data: {}\n\n{DONE}", error.openai_body()),
            Self::Messages => format!("event: error\ndata: {}\n\n", error.anthropic_body()),
            Self::Responses { sequence_number } => {
                let data = serde_json::json!({
                    "type": "error", "code": error.kind, "message": error.message,
                    "param": error.param, "sequence_number": sequence_number + 1,
                });
                format!("event: error\ndata: {data}\n\n")
            }
        }
    }
}

/// Whether one of these begins an event.
fn has_event(events: &[u8], begins: &[&str]) -> bool {
    split(events).any(|event| begins.iter().any(|begin| event.starts_with(begin.as_bytes())))
}

/// Whole events, one by one.
pub(crate) fn split(events: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = events;
    std::iter::from_fn(move || {
        let end = rest.windows(2).position(|pair| pair == b"\n\n")?;
        let (event, after) = rest.split_at(end + 2);
        rest = after;
        Some(event)
    })
}

/// The last `sequence_number`. Inside of JSON texts its quotes would be escaped.
fn last_number(events: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"\"sequence_number\":";
    let at = events.windows(NAME.len()).rposition(|window| window == NAME)? + NAME.len();
    let digits = events[at..].iter().take_while(|byte| byte.is_ascii_digit());
    std::str::from_utf8(&digits.copied().collect::<Vec<u8>>()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_api_has_its_end() {
        let check = |mut stream: EventStream, events: &str, expected: bool| {
            assert_eq!(stream.pass(events.as_bytes()), expected, "{events}");
        };
        check(EventStream::OpenAi, "data: {}\n\n", false);
        check(EventStream::OpenAi, "data: {}\n\ndata: [DONE]\n\n", true);
        check(EventStream::Messages, "event: ping\ndata: {}\n\n", false);
        check(
            EventStream::Messages,
            "event: ping\ndata: {}\n\nevent: message_stop\ndata: {}\n\n",
            true,
        );
        check(EventStream::RESPONSES, "event: response.created\ndata: {}\n\n", false);
        check(EventStream::RESPONSES, "event: response.incomplete\ndata: {}\n\n", true);
        check(EventStream::Messages, "event: ping\ndata: \"event: error\"\n\n", false);
    }

    #[test]
    fn failures_are_one_terminal_event() {
        let error = ApiError::replica_lost("gone");
        let mut responses = EventStream::RESPONSES;
        let text = r#"{"delta":"\"sequence_number\":99","sequence_number":7}"#;
        assert!(!responses.pass(format!("event: x\ndata: {text}\n\n").as_bytes()));
        for (mut stream, part) in [
            (EventStream::OpenAi, "\"code\":502"),
            (EventStream::Messages, "\"type\":\"error\""),
            (responses, "\"sequence_number\":8"),
        ] {
            let events = stream.failed(&error);
            assert!(events.contains(part) && stream.pass(events.as_bytes()), "{events}");
        }
    }
}
