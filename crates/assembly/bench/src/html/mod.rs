//! The page of a report: one file, nothing to load, light or dark as the reader likes it.

mod svg;

use crate::report::{Chart, Distribution, Metric, PERCENTILES, Report, Series};
use crate::text::number;

const STYLE: &str = include_str!("page.css");

/// Figures that are shown large.
const NUM_TILES: usize = 4;

/// The whole page.
#[must_use]
pub(crate) fn page(report: &Report) -> String {
    let title = format!("tyndall bench {}", report.benchmark);
    let mut body = String::new();
    body.push_str(&header(report, &title));
    body.push_str(&tiles(&report.metrics));
    body.push_str("<section class=\"charts\">\n");
    for chart in report.charts.iter().filter(|chart| svg::has_points(chart)) {
        body.push_str(&svg::draw(chart));
    }
    body.push_str("</section>\n");
    body.push_str(&distributions(&report.distributions));
    body.push_str("<section class=\"columns\">\n");
    body.push_str(&metrics("Figures", &report.metrics));
    body.push_str(&metrics("What this machine can do", &report.ceilings));
    body.push_str(&facts(report));
    body.push_str("</section>\n");
    if !report.notes.is_empty() {
        let notes = report.notes.iter().map(|note| format!("<li>{}</li>\n", escape(note)));
        let notes: String = notes.collect();
        body.push_str(&format!(
            "<section class=\"card table\" style=\"margin-top:16px\"><h2>Notes</h2>\
             <ul class=\"notes\">\n{notes}</ul></section>\n"
        ));
    }
    let title = escape(&title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n\
         </body>\n</html>\n"
    )
}

/// How many of the measurements are within a time: one curve per distribution.
pub(crate) fn shares(title: &str, all: &[Distribution], names: &[&str]) -> Chart {
    let curve = |distribution: &Distribution| {
        let quantiles = &distribution.summary.quantiles;
        let last = quantiles.len().saturating_sub(1).max(1) as f64;
        let points = quantiles.iter().enumerate();
        let points = points.map(|(i, value)| (*value, 100.0 * i as f64 / last));
        // The slowest half percent would press all others to the left.
        let points = points.filter(|(_, percent)| *percent <= 99.5);
        Series { name: distribution.label.clone(), points: points.collect() }
    };
    let chosen = all.iter().filter(|distribution| names.contains(&distribution.name.as_str()));
    Chart::Plot {
        title: title.to_owned(),
        x: "milliseconds".to_owned(),
        y: "% within".to_owned(),
        joined: true,
        series: chosen.map(curve).collect(),
        limits: Vec::new(),
    }
}

fn header(report: &Report, title: &str) -> String {
    let settings = |name: &str| report.settings.get(name).cloned().unwrap_or_default();
    let subject = match settings("model") {
        model if model.is_empty() => settings("url"),
        model => model,
    };
    let (date, version) = (&report.date, &report.version);
    let mut line = vec![date.replace('T', " ").replace('Z', " UTC"), format!("tyndall {version}")];
    if !subject.is_empty() {
        line.insert(0, subject);
    }
    format!(
        "<header>\n<h1>{}</h1>\n<p>{}</p>\n<p>{}</p>\n<code class=\"command\">{}</code>\n</header>\n",
        escape(title),
        escape(&line.join(" · ")),
        escape(&report.machine.describe()),
        escape(&report.command.join(" ")),
    )
}

fn tiles(metrics: &[Metric]) -> String {
    let tile = |metric: &Metric| {
        format!(
            "<div class=\"card tile\"><div class=\"label\">{}</div><div class=\"value\">{}\
             <span class=\"unit\">{}</span></div></div>\n",
            escape(&metric.label),
            number(metric.value),
            escape(&metric.unit)
        )
    };
    let tiles: String = metrics.iter().take(NUM_TILES).map(tile).collect();
    format!("<section class=\"tiles\">\n{tiles}</section>\n")
}

fn distributions(all: &[Distribution]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let percentiles: String =
        PERCENTILES.iter().map(|percent| format!("<th class=\"n\">p{percent}</th>")).collect();
    let row = |distribution: &Distribution| {
        let Distribution { label, unit, summary, .. } = distribution;
        let values = [summary.mean].into_iter().chain(PERCENTILES.map(|p| summary.at(p)));
        let values = values.chain([summary.max()]).map(number);
        let cells: String = values.map(|value| format!("<td class=\"n\">{value}</td>")).collect();
        // Indented labels are parts of the one above.
        let indent = if label.starts_with(' ') { " style=\"padding-left:16px\"" } else { "" };
        let (label, unit, count) = (escape(label.trim()), escape(unit), summary.count);
        format!(
            "<tr><td{indent}>{label}</td>{cells}<td class=\"n\">{count}</td><td class=\"u\">{unit}</td></tr>\n"
        )
    };
    let rows: String = all.iter().map(row).collect();
    format!(
        "<section class=\"card table\"><h2>Latency</h2>\n<table>\n<tr><th></th>\
         <th class=\"n\">mean</th>{percentiles}<th class=\"n\">max</th><th class=\"n\">count</th>\
         <th></th></tr>\n{rows}</table></section>\n"
    )
}

fn metrics(title: &str, metrics: &[Metric]) -> String {
    if metrics.is_empty() {
        return String::new();
    }
    let row = |metric: &Metric| {
        format!(
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"u\">{}</td></tr>\n",
            escape(&metric.label),
            number(metric.value),
            escape(&metric.unit)
        )
    };
    let rows: String = metrics.iter().map(row).collect();
    let title = escape(title);
    format!("<section class=\"card table\"><h2>{title}</h2>\n<table>\n{rows}</table></section>\n")
}

fn facts(report: &Report) -> String {
    let machine = &report.machine;
    let memory = format!("{:.1} GiB", machine.memory_bytes as f64 / f64::from(1 << 30));
    let mut facts: Vec<(&str, String)> =
        report.settings.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    facts.extend([
        ("processor", machine.cpu.clone()),
        ("cores", machine.cores.to_string()),
        ("processor flags", machine.flags.join(" ")),
        ("memory", memory),
        ("system", machine.kernel.clone()),
        ("tyndall", report.version.clone()),
    ]);
    let row = |(name, value): &(&str, String)| {
        format!("<tr><td>{}</td><td>{}</td></tr>\n", escape(name), escape(value))
    };
    let rows: String = facts.iter().map(row).collect();
    format!(
        "<section class=\"card table\"><h2>How it was run</h2>\n<table>\n{rows}</table></section>\n"
    )
}

/// Text as HTML.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_whole_and_loads_nothing() {
        let mut report = Report::new("serve", &["tyndall".to_owned(), "<b>&".to_owned()]);
        report.set("model", "a<b");
        report.rate("request_throughput", "Requests", 12.5, "req/s");
        report.latency("ttft", "TTFT", [1.0, 2.0, 30.0]);
        report.note("one <note>");
        report.charts.push(shares("Shares", &report.distributions, &["ttft"]));
        report.charts.push(shares("Nothing", &report.distributions, &["itl"]));
        let rows = vec![("wake".to_owned(), vec![("a".to_owned(), 1.0), ("b".to_owned(), 0.0)])];
        let (title, unit) = ("Parts".to_owned(), "ms".to_owned());
        report.charts.push(Chart::Bars { title, unit, rows });
        let page = page(&report);
        for part in ["a&lt;b", "&lt;b&gt;&amp;", "12.5", "one &lt;note&gt;", "Shares", "Parts"] {
            assert!(page.contains(part), "{part}");
        }
        assert_eq!(page.matches("<svg").count(), 2, "a chart without points is left out");
        for loads in ["http://", "https://", "src=", "href=", "url(", "@import", "<script", "<link"]
        {
            assert!(!page.contains(loads), "{loads}");
        }
        for (open, close) in
            [("<section", "</section>"), ("<table", "</table>"), ("<svg", "</svg>")]
        {
            assert_eq!(page.matches(open).count(), page.matches(close).count(), "{open}");
        }
    }
}
