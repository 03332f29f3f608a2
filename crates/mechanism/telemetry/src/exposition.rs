//! The text format of metrics pages, version 0.0.4, and the merge of several pages into one.
//!
//! A page is read as families: one name with help, type and samples. Families of one name are
//! joined, since a page must name each once. OpenMetrics pages are read too: their counters are
//! named without `_total`, which is put back, and `# UNIT` and `# EOF` are dropped. Lines that are
//! no samples are dropped rather than passed on: one broken process must not spoil the page.

use prometheus_client::registry::Registry;
use std::collections::HashMap;

/// The content type of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Renders a registry.
#[must_use]
pub fn render(registry: &Registry) -> String {
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, registry)
        .expect("writing to a string does not fail");
    merge([page.as_str()])
}

/// Merges pages into one valid page, families in the order they first appear.
#[must_use]
pub fn merge<'a>(pages: impl IntoIterator<Item = &'a str>) -> String {
    let mut merged = Families::default();
    for page in pages {
        merged.read(page);
    }
    merged.write()
}

#[derive(Debug, Default)]
struct Family {
    name: String,
    kind: String,
    help: String,
    samples: Vec<String>,
}

#[derive(Debug, Default)]
struct Families {
    all: Vec<Family>,
    by_name: HashMap<String, usize>,
}

impl Families {
    fn read(&mut self, page: &str) {
        // Help may stand before the type, which decides the name.
        let types = types(page);
        let mut current: Option<usize> = None;
        for line in page.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (word, name, rest) = (words.next(), words.next(), words.next());
                let (Some(word @ ("HELP" | "TYPE")), Some(name)) = (word, name) else { continue };
                let kind = types.get(name).copied().unwrap_or("untyped");
                let index = self.family(&full_name(name, kind), kind);
                if word == "HELP" && self.all[index].help.is_empty() {
                    rest.unwrap_or_default()
                        .trim_end_matches('.')
                        .clone_into(&mut self.all[index].help);
                }
                current = Some(index);
            } else if let Some(name) = sample_name(line) {
                let index = match current {
                    Some(index) if belongs(name, &self.all[index]) => index,
                    _ => self.family(name, "untyped"),
                };
                self.all[index].samples.push(line.to_owned());
            }
        }
    }

    fn family(&mut self, name: &str, kind: &str) -> usize {
        if let Some(&index) = self.by_name.get(name) {
            return index;
        }
        let family = Family { name: name.to_owned(), kind: kind.to_owned(), ..Family::default() };
        self.all.push(family);
        self.by_name.insert(name.to_owned(), self.all.len() - 1);
        self.all.len() - 1
    }

    fn write(&self) -> String {
        let mut page = String::new();
        for family in self.all.iter().filter(|family| !family.samples.is_empty()) {
            let Family { name, kind, help, samples } = family;
            if !help.is_empty() {
                page.push_str(&format!("# HELP {name} {help}\n"));
            }
            page.push_str(&format!("# TYPE {name} {kind}\n"));
            for sample in samples {
                page.push_str(sample);
                page.push('\n');
            }
        }
        page
    }
}

fn types(page: &str) -> HashMap<&str, &str> {
    page.lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| (name, kind.trim()))
        .collect()
}

fn full_name(name: &str, kind: &str) -> String {
    if kind == "counter" && !name.ends_with("_total") {
        format!("{name}_total")
    } else {
        name.to_owned()
    }
}

/// The metric name of a sample line; none when it is not one.
fn sample_name(line: &str) -> Option<&str> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let name_ok = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
        && name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
    let value = match rest.strip_prefix('{') {
        Some(labels) => &labels[labels.rfind('}')? + 1..],
        None => rest,
    };
    let number = value.split_whitespace().next()?;
    let number_ok = matches!(number, "+Inf" | "-Inf" | "NaN") || number.parse::<f64>().is_ok();
    (name_ok && number_ok).then_some(name)
}

fn belongs(sample: &str, family: &Family) -> bool {
    let Some(suffix) = sample.strip_prefix(family.name.as_str()) else { return false };
    match family.kind.as_str() {
        "histogram" | "summary" => matches!(suffix, "" | "_bucket" | "_sum" | "_count"),
        _ => suffix.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_of_several_pages_are_joined() {
        let a = "# HELP x_total Things.\n# TYPE x_total counter\nx_total{r=\"a\"} 1\n";
        let b = "# HELP x Things.\n# TYPE x counter\nx_total{r=\"b\"} 2\n# EOF\n";
        let c = "# HELP h Hist.\n# TYPE h histogram\n# UNIT h seconds\nh_sum 1.5\nh_count 1\n\
                 h_bucket{le=\"+Inf\"} 1\nnot a sample\n\n# TYPE g gauge\ng 3 1700000000\n";
        assert_eq!(
            merge([a, c, b]),
            "# HELP x_total Things\n# TYPE x_total counter\nx_total{r=\"a\"} 1\nx_total{r=\"b\"} 2\n\
             # HELP h Hist\n# TYPE h histogram\nh_sum 1.5\nh_count 1\nh_bucket{le=\"+Inf\"} 1\n\
             # TYPE g gauge\ng 3 1700000000\n"
        );
        assert_eq!(merge([merge([a, b]).as_str()]), merge([a, b]));
    }

    #[test]
    fn garbage_does_not_spoil_the_page() {
        let page = merge(["<html>oops</html>\n{}} {\nx{a=\"}\"} 1\n# TYPE\n# HELP\n9x 1\ny one\n"]);
        assert_eq!(page, "# TYPE x untyped\nx{a=\"}\"} 1\n");
    }
}
