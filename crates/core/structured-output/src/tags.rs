//! Structural tags → Lark.
//!
//! Free text and the string that ends it are one terminal: the shortest text up to that string. So
//! it is certain that a trigger in free text is followed by what it must begin, and that a tag's
//! end is not taken for a part of its content.

use tyndall_types::{Format, Tag};

use crate::error::StructuredOutputError;
use crate::lark::{self, ANYTHING, SOMETHING, Writer};
use crate::schema::Layout;
use crate::{gbnf, limits, regex};

type Result<T> = std::result::Result<T, StructuredOutputError>;

const LAYOUT: Layout = Layout { compact: false, closed: false };

/// The grammar of a format.
///
/// # Errors
/// A part of it is wrong, by its pointer from the format; or free text stands where nothing says
/// where it ends.
pub(crate) fn to_lark(format: &Format) -> Result<String> {
    let mut tags = Tags { writer: Writer::default(), level: 0 };
    let start = tags.format(format, Behind::End, "")?;
    Ok(tags.writer.finish(&start))
}

/// What follows a part.
#[derive(Clone, Copy)]
enum Behind<'f> {
    /// Nothing.
    End,
    /// One of these strings, which belong to the part then.
    Strings(&'f [String]),
    /// Something else.
    More,
}

struct Tags {
    writer: Writer,
    level: usize,
}

impl Tags {
    /// The name of a rule for the format and the strings behind it.
    fn format(&mut self, format: &Format, behind: Behind, at: &str) -> Result<String> {
        self.level += 1;
        if self.level > limits::TAG_NESTING {
            let cause =
                format!("there are more than {} formats in each other", limits::TAG_NESTING);
            return Err(StructuredOutputError::keyword(at, cause, "use a flatter one"));
        }
        let body = self.body(format, behind, at)?;
        self.level -= 1;
        Ok(self.writer.rule(&body))
    }

    fn body(&mut self, format: &Format, behind: Behind, at: &str) -> Result<String> {
        let alone = match format {
            Format::ConstString(value) => lark::text(value),
            Format::JsonSchema(schema) => self
                .writer
                .json(schema, LAYOUT)
                .map_err(|e| e.below(&format!("{at}/json_schema")))?,
            Format::Regex(pattern) => {
                let pattern =
                    regex::whole(pattern).map_err(|e| e.below(&format!("{at}/pattern")))?;
                self.writer.terminal(&regex_terminal(&pattern))
            }
            Format::Grammar(grammar) => {
                let grammar =
                    client_grammar(grammar).map_err(|e| e.below(&format!("{at}/grammar")))?;
                format!("%lark {{\n{grammar}\n}}")
            }
            Format::AnyText { excludes } => return self.any_text(excludes, behind, at),
            Format::Sequence(elements) => return self.sequence(elements, behind, at),
            Format::Or(elements) => return self.one_of(elements, behind, at),
            Format::Tag(tag) => return self.tag(tag, behind, at),
            Format::TriggeredTags { triggers, tags, at_least_one, stop_after_first, excludes } => {
                let triggered = Triggered { triggers, tags, excludes, at };
                let segment = self.triggered(&triggered, behind)?;
                let rest = self.free_rest(&triggered, behind)?;
                let after = self.after(behind);
                return Ok(match (at_least_one, stop_after_first) {
                    (false, false) => format!("{segment}* {rest}"),
                    (true, false) => format!("{segment}+ {rest}"),
                    (false, true) => format!("{segment} {after} | {rest}"),
                    (true, true) => format!("{segment} {after}"),
                });
            }
            Format::TagsWithSeparator { tags, separator, at_least_one, stop_after_first } => {
                self.separated(tags, separator, *at_least_one, *stop_after_first, at)?
            }
        };
        let after = self.after(behind);
        Ok(format!("{alone} {after}"))
    }

    /// The strings behind a part that does not hold them.
    fn after(&mut self, behind: Behind) -> String {
        match behind {
            Behind::Strings(strings) => self.writer.terminal(&lark::texts(strings)),
            Behind::End | Behind::More => lark::text(""),
        }
    }

    fn sequence(&mut self, elements: &[Format], behind: Behind, at: &str) -> Result<String> {
        let mut parts = Vec::new();
        for (i, element) in elements.iter().enumerate() {
            let behind = if i + 1 == elements.len() { behind } else { Behind::More };
            parts.push(self.format(element, behind, &format!("{at}/elements/{i}"))?);
        }
        if parts.is_empty() {
            parts.push(self.after(behind));
        }
        Ok(parts.join(" "))
    }

    fn one_of(&mut self, elements: &[Format], behind: Behind, at: &str) -> Result<String> {
        let mut parts = Vec::new();
        for (i, element) in elements.iter().enumerate() {
            parts.push(self.format(element, behind, &format!("{at}/elements/{i}"))?);
        }
        if parts.is_empty() {
            let at = format!("{at}/elements");
            return Err(StructuredOutputError::keyword(&at, "there is nothing in it", "add one"));
        }
        Ok(parts.join(" | "))
    }

    fn tag(&mut self, tag: &Tag, behind: Behind, at: &str) -> Result<String> {
        let begin = lark::text(&tag.begin);
        let rest = self.content(tag, behind, at)?;
        Ok(format!("{begin} {rest}"))
    }

    /// What follows a tag's begin: content, end, and what is behind the tag.
    fn content(&mut self, tag: &Tag, behind: Behind, at: &str) -> Result<String> {
        let at = format!("{at}/content");
        if tag.end.iter().all(String::is_empty) {
            return self.format(&tag.content, behind, &at);
        }
        let content = self.format(&tag.content, Behind::Strings(&tag.end), &at)?;
        let after = self.after(behind);
        Ok(format!("{content} {after}"))
    }

    fn any_text(&mut self, excludes: &[String], behind: Behind, at: &str) -> Result<String> {
        Ok(match behind {
            Behind::Strings(ends) => self.up_to(ends, ends, excludes),
            Behind::End => self.without(excludes),
            Behind::More => {
                let cure = "put it into a tag with an end, or at the end";
                let cause = "nothing says where this text ends";
                return Err(StructuredOutputError::keyword(at, cause, cure));
            }
        })
    }

    /// The shortest text that ends in one of `ends` and has none of `stops` before.
    fn up_to(&mut self, ends: &[String], stops: &[String], excludes: &[String]) -> String {
        let text = match excludes {
            [] => ANYTHING.to_owned(),
            _ => self.without(excludes),
        };
        let (ends, stops) = (lark::texts(ends), lark::texts(stops));
        let found = self.writer.terminal(&format!("{text} {ends}"));
        let beyond = self.writer.terminal(&format!("{ANYTHING} {stops} {SOMETHING}"));
        self.writer.terminal(&format!("{found} & ~{beyond}"))
    }

    /// Texts in which none of the strings occurs.
    fn without(&mut self, strings: &[String]) -> String {
        if strings.is_empty() {
            return self.writer.terminal(ANYTHING);
        }
        let strings = lark::texts(strings);
        let with = self.writer.terminal(&format!("{ANYTHING} {strings} {ANYTHING}"));
        self.writer.terminal(&format!("{ANYTHING} & ~{with}"))
    }

    /// Free text up to a trigger, and one of the tags that it may begin.
    fn triggered(&mut self, triggered: &Triggered, behind: Behind) -> Result<String> {
        triggered.check()?;
        let stops = triggered.stops(behind);
        let mut contents = Vec::new();
        for (i, tag) in triggered.tags.iter().enumerate() {
            let at = format!("{}/tags/{i}", triggered.at);
            contents.push(self.content(tag, Behind::More, &at)?);
        }
        let mut segments = Vec::new();
        for trigger in triggered.triggers {
            let tags = triggered.tags.iter().zip(&contents);
            let rests: Vec<String> = tags
                .filter_map(|(tag, content)| Some((tag.begin.strip_prefix(trigger)?, content)))
                .map(|(rest, content)| format!("{} {content}", lark::text(rest)))
                .collect();
            let before = self.up_to(std::slice::from_ref(trigger), &stops, triggered.excludes);
            let rest = self.writer.rule(&rests.join(" | "));
            segments.push(format!("{before} {rest}"));
        }
        Ok(self.writer.rule(&segments.join(" | ")))
    }

    /// Free text without a trigger, and the strings behind it.
    fn free_rest(&mut self, triggered: &Triggered, behind: Behind) -> Result<String> {
        let stops = triggered.stops(behind);
        match behind {
            Behind::Strings(ends) => Ok(self.up_to(ends, &stops, triggered.excludes)),
            Behind::End => {
                let mut absent = triggered.triggers.to_vec();
                absent.extend_from_slice(triggered.excludes);
                Ok(self.without(&absent))
            }
            Behind::More => self.any_text(&[], behind, triggered.at),
        }
    }

    fn separated(
        &mut self,
        tags: &[Tag],
        separator: &str,
        at_least_one: bool,
        stop_after_first: bool,
        at: &str,
    ) -> Result<String> {
        let mut all = Vec::new();
        for (i, tag) in tags.iter().enumerate() {
            all.push(self.tag(tag, Behind::More, &format!("{at}/tags/{i}"))?);
        }
        if all.is_empty() {
            let at = format!("{at}/tags");
            return Err(StructuredOutputError::keyword(&at, "there is no tag", "add one"));
        }
        let tag = self.writer.rule(&all.join(" | "));
        let separator = lark::text(separator);
        let some = match stop_after_first {
            true => tag,
            false => self.writer.rule(&format!("{tag} ({separator} {tag})*")),
        };
        Ok(if at_least_one { some } else { format!("{some}?") })
    }
}

struct Triggered<'f> {
    triggers: &'f [String],
    tags: &'f [Tag],
    excludes: &'f [String],
    at: &'f str,
}

impl Triggered<'_> {
    /// What ends free text.
    fn stops(&self, behind: Behind) -> Vec<String> {
        let mut stops = self.triggers.to_vec();
        if let Behind::Strings(ends) = behind {
            stops.extend_from_slice(ends);
        }
        stops
    }

    /// # Errors
    /// Triggers and tags do not belong together.
    fn check(&self) -> Result<()> {
        let fault = |key: &str, cause: String, cure: &str| {
            Err(StructuredOutputError::keyword(&format!("{}{key}", self.at), cause, cure))
        };
        if self.triggers.is_empty() || self.triggers.iter().any(String::is_empty) {
            return fault("/triggers", "a trigger is missing".to_owned(), "use the tags' begins");
        }
        if self.triggers.len() > limits::TRIGGERS {
            let cause = format!("there are more than {} triggers", limits::TRIGGERS);
            return fault("/triggers", cause, "use a common beginning of several tags");
        }
        let begins = |tag: &Tag, trigger: &String| tag.begin.starts_with(trigger.as_str());
        for (i, tag) in self.tags.iter().enumerate() {
            if !self.triggers.iter().any(|trigger| begins(tag, trigger)) {
                let cause = format!("no trigger is the beginning of {:?}", tag.begin);
                return fault(&format!("/tags/{i}/begin"), cause, "add a trigger for it");
            }
        }
        for trigger in self.triggers {
            if !self.tags.iter().any(|tag| begins(tag, trigger)) {
                let cause = format!("no tag begins with the trigger {trigger:?}");
                return fault("/triggers", cause, "remove it, or add one");
            }
        }
        Ok(())
    }
}

/// A pattern for whole texts as a terminal.
pub(crate) fn regex_terminal(pattern: &str) -> String {
    // Lark has no empty expression.
    if pattern.is_empty() { lark::text("") } else { format!("/{pattern}/") }
}

/// A client's grammar in Lark's syntax.
pub(crate) fn client_grammar(grammar: &str) -> Result<String> {
    if grammar.len() > limits::GRAMMAR_BYTES {
        let cause = format!("the grammar is longer than {} bytes", limits::GRAMMAR_BYTES);
        return Err(StructuredOutputError::whole(cause, "use a shorter one"));
    }
    if gbnf::is_gbnf(grammar) { gbnf::to_lark(grammar) } else { lark::checked(grammar) }
}
