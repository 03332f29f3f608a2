//! Rules → Lark.

use super::{Expression, Rule};
use crate::error::StructuredOutputError;
use crate::lark::{self, Writer};

pub(super) fn emit(rules: &[Rule]) -> Result<String, StructuredOutputError> {
    if let Some(endless) = fixpoint(rules, ends).iter().position(|ends| !ends) {
        let rule = &rules[endless];
        let cause = format!("no text of the rule {:?} ends", rule.name);
        let cure = "give it an alternative without itself";
        return Err(StructuredOutputError::new(rule.place.clone(), cause, cure));
    }
    let regular = fixpoint(rules, |body, regular| every_rule(body, &|rule| regular[rule]));
    let mut emitter = Emitter { writer: Writer::default(), regular };
    for (index, rule) in rules.iter().enumerate() {
        let (name, body) = if emitter.regular[index] {
            (terminal_name(index), emitter.terminal(&rule.body))
        } else {
            (rule_name(index), emitter.rule(&rule.body))
        };
        emitter.writer.define_as(&name, &body);
    }
    let root = if emitter.regular[0] { terminal_name(0) } else { rule_name(0) };
    Ok(emitter.writer.finish(&root))
}

fn rule_name(index: usize) -> String {
    format!("rule-{index}")
}

fn terminal_name(index: usize) -> String {
    format!("RULE-{index}")
}

/// The rules of which `holds` is true, given those of which it is known to be.
fn fixpoint(rules: &[Rule], holds: impl Fn(&Expression, &[bool]) -> bool) -> Vec<bool> {
    let mut known = vec![false; rules.len()];
    loop {
        let found = (0..rules.len()).filter(|i| !known[*i] && holds(&rules[*i].body, &known));
        let found: Vec<usize> = found.collect();
        if found.is_empty() {
            return known;
        }
        found.into_iter().for_each(|i| known[i] = true);
    }
}

/// Whether some text of the expression ends.
fn ends(body: &Expression, known: &[bool]) -> bool {
    match body {
        Expression::Literal(_) | Expression::Class(_) => true,
        Expression::Rule(rule) => known[*rule],
        Expression::Sequence(items) => items.iter().all(|item| ends(item, known)),
        Expression::Alternatives(all) => all.iter().any(|one| ends(one, known)),
        Expression::Repeat(inner, min, _) => *min == 0 || ends(inner, known),
    }
}

fn every_rule(body: &Expression, holds: &impl Fn(usize) -> bool) -> bool {
    match body {
        Expression::Literal(_) | Expression::Class(_) => true,
        Expression::Rule(rule) => holds(*rule),
        Expression::Sequence(all) | Expression::Alternatives(all) => {
            all.iter().all(|one| every_rule(one, holds))
        }
        Expression::Repeat(inner, ..) => every_rule(inner, holds),
    }
}

struct Emitter {
    writer: Writer,
    regular: Vec<bool>,
}

impl Emitter {
    fn is_regular(&self, body: &Expression) -> bool {
        every_rule(body, &|rule| self.regular[rule])
    }

    /// A regular expression, over the names of others.
    fn terminal(&mut self, body: &Expression) -> String {
        match body {
            Expression::Literal(text) => lark::text(text),
            Expression::Class(class) => format!("/{class}/"),
            Expression::Rule(rule) => terminal_name(*rule),
            Expression::Sequence(items) if items.is_empty() => lark::text(""),
            Expression::Sequence(items) => {
                let items: Vec<String> = items.iter().map(|i| self.terminal_atom(i)).collect();
                items.join(" ")
            }
            Expression::Alternatives(all) => {
                let all: Vec<String> = all.iter().map(|one| self.terminal(one)).collect();
                all.join(" | ")
            }
            Expression::Repeat(inner, min, max) => repeated(&self.terminal_atom(inner), *min, *max),
        }
    }

    /// The same as one name, as brackets may not be deep in Lark.
    fn terminal_atom(&mut self, body: &Expression) -> String {
        match body {
            Expression::Literal(_) | Expression::Class(_) | Expression::Rule(_) => {
                self.terminal(body)
            }
            _ => {
                let body = self.terminal(body);
                self.writer.terminal(&body)
            }
        }
    }

    /// A composition, in which each run of regular parts is one terminal.
    fn rule(&mut self, body: &Expression) -> String {
        if self.is_regular(body) {
            return self.terminal_atom(body);
        }
        match body {
            Expression::Rule(rule) => rule_name(*rule),
            Expression::Sequence(items) => {
                let mut parts = Vec::new();
                let together = |a: &_, b: &_| self.is_regular(a) && self.is_regular(b);
                let runs: Vec<&[Expression]> = items.chunk_by(together).collect();
                for run in runs {
                    parts.push(match run {
                        [only] => self.rule_atom(only),
                        _ => self.terminal_atom(&Expression::Sequence(run.to_vec())),
                    });
                }
                parts.join(" ")
            }
            Expression::Alternatives(all) => {
                let (regular, others): (Vec<_>, Vec<_>) =
                    all.iter().cloned().partition(|one| self.is_regular(one));
                let mut parts: Vec<String> = others.iter().map(|one| self.rule(one)).collect();
                if !regular.is_empty() {
                    parts.push(self.terminal_atom(&Expression::Alternatives(regular)));
                }
                parts.join(" | ")
            }
            Expression::Repeat(inner, min, max) => repeated(&self.rule_atom(inner), *min, *max),
            Expression::Literal(_) | Expression::Class(_) => self.terminal(body),
        }
    }

    fn rule_atom(&mut self, body: &Expression) -> String {
        if self.is_regular(body) || matches!(body, Expression::Rule(_)) {
            return self.rule(body);
        }
        let body = self.rule(body);
        self.writer.rule(&body)
    }
}

fn repeated(atom: &str, min: u32, max: Option<u32>) -> String {
    match (min, max) {
        (0, None) => format!("{atom}*"),
        (1, None) => format!("{atom}+"),
        (0, Some(1)) => format!("{atom}?"),
        (_, Some(0)) => lark::text(""),
        (min, None) => format!("{atom}{{{min},}}"),
        (min, Some(max)) => format!("{atom}{{{min},{max}}}"),
    }
}
