//! The page.

use super::svg::{Line, card};
use super::{decision, number, rows, seconds};
use crate::outcome::{DeploymentOutcome, Outcome, Point};

const STYLE: &str = include_str!("page.css");
/// Deployments with plots, those with the most requests.
const MAX_PLOTTED: usize = 50;
/// Decisions of a deployment that are shown; all are in the JSON.
const MAX_DECISIONS: usize = 200;

pub(super) fn page(outcome: &Outcome) -> String {
    let mut body = header(outcome);
    for anomaly in &outcome.anomalies {
        body.push_str(&format!("<p class=\"wrong\">must not happen: {}</p>\n", escape(anomaly)));
    }
    body.push_str(&totals(outcome));
    let mut plotted: Vec<&DeploymentOutcome> = outcome.deployments.iter().collect();
    if plotted.len() > MAX_PLOTTED {
        plotted.sort_by_key(|one| std::cmp::Reverse(one.totals.sent));
        plotted.truncate(MAX_PLOTTED);
    }
    plotted.into_iter().for_each(|one| body.push_str(&section(one, outcome.duration_s)));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>tyndall simulate</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         {body}</main>\n</body>\n</html>\n"
    )
}

fn header(outcome: &Outcome) -> String {
    let totals = &outcome.totals;
    let tile = |label: &str, value: String| {
        format!(
            "<div class=\"card tile\"><div class=\"label\">{label}</div>\
             <div class=\"value\">{value}</div></div>\n"
        )
    };
    let served = 100.0 * totals.answered as f64 / (totals.sent.max(1)) as f64;
    let replicas: f64 = outcome.deployments.iter().map(|one| one.replica_seconds).sum();
    let tiles = [
        tile("requests", totals.sent.to_string()),
        tile("answered", format!("{} %", number((served * 100.0).floor() / 100.0))),
        tile("lost", totals.lost.to_string()),
        tile("replicas, mean", number(replicas / outcome.duration_s.max(1e-9))),
    ];
    format!(
        "<header><h1>tyndall simulate</h1><p>{} of virtual time · seed {}</p></header>\n\
         <section class=\"tiles\">\n{}</section>\n",
        seconds(outcome.duration_s),
        outcome.seed,
        tiles.concat()
    )
}

fn totals(outcome: &Outcome) -> String {
    let rows = rows(outcome);
    let cells = |row: &[String], tag: &str| {
        let cell = |(i, cell): (usize, &String)| {
            let class = if i == 0 { "" } else { " class=\"n\"" };
            format!("<{tag}{class}>{}</{tag}>", escape(cell))
        };
        format!("<tr>{}</tr>\n", row.iter().enumerate().map(cell).collect::<String>())
    };
    let (head, rest) = rows.split_first().map_or((&[][..], &[][..]), |(h, r)| (h.as_slice(), r));
    let rest: String = rest.iter().map(|row| cells(row, "td")).collect();
    format!(
        "<section class=\"card table\"><h2>Requests and replicas</h2>\n<table>\n{}{rest}</table>\
         </section>\n",
        cells(head, "th")
    )
}

fn section(one: &DeploymentOutcome, end_s: f64) -> String {
    let line = |name, is_step, value: &dyn Fn(&Point) -> Option<f64>| Line {
        name,
        is_step,
        points: one.series.iter().map(|point| (point.time_s, value(point))).collect(),
    };
    let count = |name, value: &dyn Fn(&Point) -> u32| {
        line(name, true, &|point| Some(f64::from(value(point))))
    };
    let plots = [
        card(
            "Replicas",
            "",
            end_s,
            &[count("target", &|p| p.target), count("running", &|p| p.running)],
        ),
        card(
            "Requests",
            "",
            end_s,
            &[count("queued", &|p| p.queued), count("ongoing", &|p| p.ongoing)],
        ),
        card(
            "Latency",
            "seconds",
            end_s,
            &[
                line("p50", false, &|point| point.latency_p50_s),
                line("p99", false, &|point| point.latency_p99_s),
            ],
        ),
        card(
            "Arrivals",
            "per second",
            end_s,
            &[line("arrivals", true, &|point| Some(point.arrivals_per_s))],
        ),
    ];
    let name = match &one.model_id {
        Some(model) if *model != one.id => format!("{} · {model}", one.id),
        Some(_) | None => one.id.clone(),
    };
    format!(
        "<section>\n<h2 class=\"deployment\">{}</h2>\n<div class=\"charts\">\n{}</div>\n{}</section>\n",
        escape(&name),
        plots.concat(),
        decisions(one)
    )
}

fn decisions(one: &DeploymentOutcome) -> String {
    let row = |of| {
        let [at, what, why] = decision(of);
        format!("<tr><td class=\"n\">{at}</td><td class=\"n\">{what}</td><td>{why}</td></tr>\n")
    };
    let rows: String = one.decisions.iter().take(MAX_DECISIONS).map(row).collect();
    let hidden = one.decisions.len().saturating_sub(MAX_DECISIONS);
    let more = if hidden > 0 { format!("<p>and {hidden} more</p>") } else { String::new() };
    let number = one.decisions.len();
    format!(
        "<details class=\"card table\"><summary>{number} decisions</summary>\n<table>\n{rows}</table>\
         {more}</details>\n"
    )
}

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
