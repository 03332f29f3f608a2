//! What became of a request, and whether that may be.

use std::time::Instant;

/// One of the two applications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum App {
    /// Always there.
    Steady,
    /// At zero replicas unless it is asked.
    Sleepy,
}

impl App {
    /// Its name, and that of its model.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Sleepy => "sleepy",
        }
    }
}

/// What a client saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Came {
    /// All of the expected text.
    Answered,
    /// 429 or 503 with the time to come again.
    Refused,
    /// Any other status than 200, and what it says.
    Status(u16, String),
    /// The connection was refused or broke.
    Disconnected(String),
    /// A stream that ended as it should after an error event.
    ErrorEvent(String),
    /// Something that ended as if it were whole and is not what was expected.
    Wrong(String),
    /// Nothing by the deadline.
    Late,
}

/// A request and what became of it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) app: App,
    pub(crate) is_stream: bool,
    pub(crate) start: Instant,
    pub(crate) end: Instant,
    pub(crate) came: Came,
}

/// What a fault takes away; what follows from that is excused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// A proxy was killed, or nothing listened: connections break.
    Proxy,
    /// A replica was killed: streams that have begun end with an error.
    Replica,
    /// The application that sleeps was deleted: nobody knows it.
    Application,
}

/// When something is excused.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) gone: Gone,
    pub(crate) from: Instant,
    pub(crate) to: Instant,
}

/// How a request counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// As it should.
    Answered,
    /// It may come again.
    Refused,
    /// Its connection died with its proxy.
    Cut,
    /// It had begun, and was told that its replica died.
    BrokenStream,
    /// Its application was deleted.
    Absent,
    /// Anything else.
    Lost,
}

/// How a request counts, with the excuses there are.
pub(crate) fn classify(asked: &Asked, windows: &[Window]) -> Class {
    let is_excused = |gone: Gone| {
        let mut known = windows.iter().filter(|window| window.gone == gone);
        known.any(|window| asked.start <= window.to && window.from <= asked.end)
    };
    match &asked.came {
        Came::Answered => Class::Answered,
        Came::Refused => Class::Refused,
        Came::Status(404, _) if asked.app == App::Sleepy && is_excused(Gone::Application) => {
            Class::Absent
        }
        Came::Disconnected(_) if is_excused(Gone::Proxy) => Class::Cut,
        Came::ErrorEvent(_) if is_excused(Gone::Replica) => Class::BrokenStream,
        Came::Status(..)
        | Came::Disconnected(_)
        | Came::ErrorEvent(_)
        | Came::Wrong(_)
        | Came::Late => Class::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_what_a_fault_explains_is_excused() {
        let begin = Instant::now();
        let at = |s: u64| begin + Duration::from_secs(s);
        let window = |gone| Window { gone, from: at(10), to: at(11) };
        let check = |came: Came, app, (start, end), at_fault, expected| {
            let asked = Asked { app, is_stream: true, start: at(start), end: at(end), came };
            assert_eq!(classify(&asked, &[window(at_fault)]), expected, "{asked:?} {at_fault:?}");
        };
        let gone = || Came::Disconnected("reset".to_owned());
        let error = || Came::ErrorEvent("lost".to_owned());
        let unknown = || Came::Status(404, String::new());
        let (steady, sleepy) = (App::Steady, App::Sleepy);
        check(gone(), steady, (9, 10), Gone::Proxy, Class::Cut);
        check(gone(), steady, (11, 12), Gone::Proxy, Class::Cut);
        check(gone(), steady, (8, 9), Gone::Proxy, Class::Lost);
        check(gone(), steady, (12, 13), Gone::Proxy, Class::Lost);
        check(gone(), steady, (9, 12), Gone::Replica, Class::Lost);
        check(error(), steady, (9, 12), Gone::Replica, Class::BrokenStream);
        check(error(), steady, (9, 12), Gone::Proxy, Class::Lost);
        check(unknown(), sleepy, (9, 12), Gone::Application, Class::Absent);
        check(unknown(), steady, (9, 12), Gone::Application, Class::Lost);
        check(Came::Late, steady, (9, 12), Gone::Proxy, Class::Lost);
        check(Came::Wrong(String::new()), steady, (9, 12), Gone::Replica, Class::Lost);
        check(Came::Answered, steady, (0, 1), Gone::Proxy, Class::Answered);
        check(Came::Refused, steady, (0, 1), Gone::Proxy, Class::Refused);
    }
}
