//! The log of a process: one line per event on standard error, as text or JSON, each with the role
//! that wrote it, so that the lines of all processes can go to one place.

use std::fmt;
use std::str::FromStr;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = LogError;
    fn from_str(word: &str) -> Result<Self, LogError> {
        match word {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(LogError::Format { format: other.to_owned() }),
        }
    }
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not a format.
    #[error("{format:?} is not a log format; use text or json")]
    Format {
        /// What was asked for.
        format: String,
    },
    /// Not a level or filter.
    #[error(
        "{filter:?} is not a log level; use error, warn, info, debug or trace, or target=level"
    )]
    Filter {
        /// What was asked for.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// This process has a log already.
    #[error("the log is set up twice")]
    Twice,
}

/// What is logged, and how.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Who writes, such as `proxy-0`.
    pub role: String,
    /// A level, or `target=level` pairs separated by commas.
    pub filter: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// Sets up the log of this process. Called once, before the first event.
///
/// # Errors
/// [`LogError`].
pub fn init_logs(options: LogOptions) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&options.filter)
        .map_err(|source| LogError::Filter { filter: options.filter.clone(), source })?;
    let lines = Lines { role: options.role, format: options.format };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .event_format(lines)
        .finish();
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)
}

struct Lines {
    role: String,
    format: LogFormat,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        match self.format {
            LogFormat::Text => {
                write!(writer, "{time} {:>5} {}: {}", metadata.level(), self.role, fields.message)?;
                for (name, value) in &fields.rest {
                    write!(writer, " {name}={value}")?;
                }
            }
            LogFormat::Json => {
                let mut line = serde_json::Map::new();
                line.insert("time".to_owned(), time.into());
                line.insert("level".to_owned(), metadata.level().as_str().into());
                line.insert("role".to_owned(), self.role.as_str().into());
                line.insert("target".to_owned(), metadata.target().into());
                line.insert("message".to_owned(), fields.message.into());
                for (name, value) in fields.rest {
                    line.entry(name).or_insert(value);
                }
                write!(writer, "{}", serde_json::Value::Object(line))?;
            }
        }
        writeln!(writer)
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: Vec<(&'static str, serde_json::Value)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: serde_json::Value) {
        self.rest.push((field.name(), value));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.add(field, format!("{value:?}").into());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.add(field, value.into());
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        // The chain of causes, since Display does not repeat it.
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        self.add(field, text.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .event_format(Lines { role: "proxy-0".into(), format })
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(deployment = "demo", queued = 3, "woke {}", 1);
        });
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn lines_name_their_role() {
        let text = logged(LogFormat::Text);
        assert!(text.ends_with("  INFO proxy-0: woke 1 deployment=\"demo\" queued=3\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&logged(LogFormat::Json)).unwrap();
        assert_eq!((&json["role"], &json["message"]), (&"proxy-0".into(), &"woke 1".into()));
        assert_eq!((&json["queued"], &json["deployment"]), (&3.into(), &"demo".into()));
    }

    #[test]
    fn bad_options_are_named() {
        let options = |filter: &str| LogOptions {
            role: "x".into(),
            filter: filter.into(),
            format: LogFormat::Text,
        };
        assert!(matches!(init_logs(options("a=loud")), Err(LogError::Filter { .. })));
        assert!("xml".parse::<LogFormat>().unwrap_err().to_string().contains("text or json"));
    }
}
