//! What a field takes, and what becomes of it.

use super::node::{Entry, Node, Value};
use crate::parse;
use tyndall_types::DeploymentName;

/// What a field takes. `null` is taken where the field says so.
#[derive(Debug)]
pub(super) enum Kind {
    Bool,
    /// A whole number in these bounds.
    Whole(i64, i64),
    /// A number from the first bound to the second, or above the first where `above`.
    Number {
        least: f64,
        most: f64,
        above: bool,
    },
    /// A text that is not empty.
    Text,
    /// One of these words, in upper or lower case.
    Word(&'static [&'static str]),
    /// The name of a module, with dots.
    Module,
    /// `module:attribute` or `module.attribute`.
    ImportPath,
    /// Begins with `/`, and ends with it only alone.
    Route,
    /// Of an application, a deployment or a model.
    Name,
    /// An IP address.
    Host,
    /// A number of tokens, also as `4k` or `4K`.
    Tokens,
    /// A number of bytes, also as `8GiB`.
    Bytes,
    /// Anything.
    Any,
    /// A map of anything.
    Map,
    /// A map of texts.
    Texts,
    /// A map of texts that can be variables of a process.
    Variables,
    /// A map of numbers from 0 on.
    Amounts,
    List(&'static Kind),
    Object(&'static Object),
    /// The first that fits.
    Either(&'static [Kind]),
}

pub(super) const POSITIVE: Kind = Kind::Number { least: 0.0, most: f64::MAX, above: true };
pub(super) const NOT_NEGATIVE: Kind = Kind::Number { least: 0.0, most: f64::MAX, above: false };
/// What [`Kind::Name`] takes.
pub(super) const NAME_ACCEPTED: &str = "a name of 1 to 128 letters, digits, '.', '_', '-', ':' or \
                                        '/' that starts with a letter or digit";
pub(super) const COUNT: Kind = Kind::Whole(1, 1_000_000_000);

/// A map with these fields and no others.
#[derive(Debug)]
pub(super) struct Object {
    /// For the docs and the schema.
    pub(super) name: &'static str,
    pub(super) fields: &'static [Field],
    /// Ray ignores other keys here, so that an older one reads newer files: they are warned of.
    pub(super) is_open: bool,
}

impl Object {
    pub(super) fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// One key of an [`Object`].
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// As JSON; empty where there is none.
    pub(super) default: &'static str,
    pub(super) takes_null: bool,
    pub(super) is_required: bool,
    pub(super) fate: Fate,
    /// One line.
    pub(super) about: &'static str,
}

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Used,
    /// It has no effect; why.
    Ignored(&'static str),
    /// What it says beyond its default cannot be carried out; what to do instead.
    Refused(&'static str),
}

impl Field {
    pub(super) const fn new(
        name: &'static str,
        kind: Kind,
        default: &'static str,
        about: &'static str,
    ) -> Field {
        let takes_null = matches!(default.as_bytes(), b"null");
        Field { name, kind, default, takes_null, is_required: false, fate: Fate::Used, about }
    }

    pub(super) const fn required(mut self) -> Field {
        self.is_required = true;
        self
    }

    pub(super) const fn nullable(mut self) -> Field {
        self.takes_null = true;
        self
    }

    pub(super) const fn ignored(self, why: &'static str) -> Field {
        self.with(Fate::Ignored(why))
    }

    pub(super) const fn refused(self, cure: &'static str) -> Field {
        self.with(Fate::Refused(cure))
    }

    pub(super) const fn with(mut self, fate: Fate) -> Field {
        self.fate = fate;
        self
    }

    /// What the field takes, in words.
    pub(super) fn accepted(&self) -> String {
        let accepted = self.kind.accepted();
        if self.takes_null { format!("{accepted} or null") } else { accepted }
    }
}

impl Kind {
    /// Whether a value is of the kind, by its own look: what is in a list or an object is not
    /// looked at.
    pub(super) fn takes(&self, node: &Node) -> bool {
        match self {
            Kind::Bool => matches!(node.value, Value::Bool(_)),
            Kind::Whole(least, most) => {
                // `2.0` is a whole number to Ray too.
                let whole = node.number().filter(|n| n.fract() == 0.0);
                whole.is_some_and(|n| (*least as f64..=*most as f64).contains(&n))
            }
            Kind::Number { least, most, above } => node
                .number()
                .is_some_and(|n| (*least..=*most).contains(&n) && !(*above && n == *least)),
            Kind::Text => node.text().is_some_and(|text| !text.is_empty()),
            Kind::Word(words) => node
                .text()
                .is_some_and(|text| words.iter().any(|word| word.eq_ignore_ascii_case(text))),
            Kind::Module => node.text().is_some_and(is_module),
            Kind::ImportPath => node.text().is_some_and(is_import_path),
            Kind::Route => node.text().is_some_and(is_route),
            Kind::Name => node.text().is_some_and(|text| DeploymentName::new(text).is_ok()),
            Kind::Host => node.text().is_some_and(|text| parse::host(text).is_ok()),
            Kind::Tokens => node.tokens().is_some(),
            Kind::Bytes => node.bytes().is_some(),
            Kind::Any => true,
            Kind::Map | Kind::Object(_) => matches!(node.value, Value::Map(_)),
            Kind::Texts => {
                matches!(node.value, Value::Map(_))
                    && node.entries().iter().all(|entry| entry.value.text().is_some())
            }
            Kind::Variables => Kind::Texts.takes(node) && node.entries().iter().all(is_variable),
            Kind::Amounts => {
                matches!(node.value, Value::Map(_))
                    && node.entries().iter().all(|entry| NOT_NEGATIVE.takes(&entry.value))
            }
            Kind::List(_) => matches!(node.value, Value::List(_)),
            Kind::Either(kinds) => kinds.iter().any(|kind| kind.takes(node)),
        }
    }

    /// In words.
    pub(super) fn accepted(&self) -> String {
        match self {
            Kind::Bool => "true or false".to_owned(),
            Kind::Whole(least, most) if least == most => least.to_string(),
            Kind::Whole(least, most) if *most >= 1_000_000_000 => {
                format!("a whole number from {least} on")
            }
            Kind::Whole(least, most) => format!("a whole number from {least} to {most}"),
            Kind::Number { least, most, above } => {
                let from = if *above { "above" } else { "from" };
                match *most {
                    f64::MAX if *above => format!("a number above {least}"),
                    f64::MAX => format!("a number from {least} on"),
                    most => format!("a number {from} {least} to {most}"),
                }
            }
            Kind::Text => "a text".to_owned(),
            Kind::Word(words) => {
                one_of(&words.iter().map(|w| format!("{w:?}")).collect::<Vec<_>>())
            }
            Kind::Module => "the name of a module such as torch or a.b".to_owned(),
            Kind::ImportPath => "an import path such as \"module:attribute\"".to_owned(),
            Kind::Route => "a path such as \"/\" or \"/app\", without / at its end".to_owned(),
            Kind::Name => NAME_ACCEPTED.to_owned(),
            Kind::Host => "an IP address such as 127.0.0.1, ::1 or 0.0.0.0".to_owned(),
            Kind::Tokens => "a number of tokens such as 4096, 4k or 4K".to_owned(),
            Kind::Bytes => "a number of bytes such as 8GiB".to_owned(),
            Kind::Any => "any value".to_owned(),
            Kind::Map => "a map".to_owned(),
            Kind::Texts => "a map of texts".to_owned(),
            Kind::Variables => "a map of texts by names of variables".to_owned(),
            Kind::Amounts => "a map of numbers from 0 on".to_owned(),
            Kind::List(kind) => format!("a list of: {}", kind.accepted()),
            Kind::Object(object) => format!("a map ({})", object.name),
            Kind::Either(kinds) => one_of(&kinds.iter().map(Kind::accepted).collect::<Vec<_>>()),
        }
    }
}

/// `a, b or c`.
fn one_of(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [word] => word.clone(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

/// What a process can be given.
fn is_variable(entry: &Entry) -> bool {
    let name = entry.name();
    let is_whole = |text: &str| !text.contains('\0');
    !name.is_empty()
        && !name.contains('=')
        && is_whole(name)
        && entry.value.text().is_some_and(is_whole)
}

/// Names of Python between dots.
fn is_module(text: &str) -> bool {
    text.split('.').all(|name| {
        let is_begin = |c: char| c == '_' || c.is_alphabetic();
        name.starts_with(is_begin) && name.chars().all(|c| is_begin(c) || c.is_numeric())
    })
}

/// At most one colon, else at least one dot, neither first nor last.
pub(crate) fn is_import_path(text: &str) -> bool {
    let (separator, at_most) = if text.contains(':') { (':', 1) } else { ('.', usize::MAX) };
    let count = text.matches(separator).count();
    (1..=at_most).contains(&count) && !text.starts_with(separator) && !text.ends_with(separator)
}

fn is_route(text: &str) -> bool {
    text == "/" || text.starts_with('/') && !text.ends_with('/') && !text.contains(['{', '}'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_names_between_dots() {
        for (name, good) in [
            ("torch", true),
            ("a.b_2._c", true),
            ("", false),
            (".a", false),
            ("a..b", false),
            ("2a", false),
            ("a,b", false),
            ("a:b", false),
            ("-m", false),
        ] {
            assert_eq!(is_module(name), good, "{name:?}");
        }
    }

    #[test]
    fn import_paths_and_routes_follow_ray() {
        for (path, good) in [
            ("main:app", true),
            ("pkg.main:app", true),
            ("pkg.app", true),
            ("app", false),
            ("a:b:c", false),
            (":app", false),
            ("main:", false),
            (".app", false),
            ("", false),
        ] {
            assert_eq!(is_import_path(path), good, "{path:?}");
        }
        for (route, good) in
            [("/", true), ("/a", true), ("/a/b", true), ("", false), ("a", false), ("/a/", false)]
        {
            assert_eq!(is_route(route), good, "{route:?}");
        }
    }
}
