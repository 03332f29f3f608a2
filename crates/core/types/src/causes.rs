//! An error and everything behind it, in one line.

use std::error::Error;

/// `text` (what the error says of itself) and its chain of sources, each said once.
///
/// Transparent errors repeat their source, so a part that was said already is left out.
pub fn with_causes(text: impl Into<String>, error: &dyn Error) -> String {
    let mut line = text.into();
    let mut source = error.source();
    while let Some(cause) = source {
        let part = cause.to_string();
        if !line.contains(&part) {
            line.push_str(": ");
            line.push_str(&part);
        }
        source = cause.source();
    }
    line.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt;

    #[derive(Debug)]
    struct Link(&'static str, Option<Box<Link>>);

    impl fmt::Display for Link {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Link {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|link| link as _)
        }
    }

    #[test]
    fn each_cause_is_said_once_and_on_one_line() {
        let end = Link("no leaves", None);
        let middle = Link("no tea:\nno leaves", Some(Box::new(end)));
        let error = Link("the pot is empty", Some(Box::new(middle)));
        let line = with_causes(error.to_string(), &error);
        assert_eq!(line, "the pot is empty: no tea: no leaves");
    }
}
