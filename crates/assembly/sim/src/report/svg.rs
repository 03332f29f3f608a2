//! Plots over time as inline SVG, in the colours of the page.

use super::number;
use std::fmt::Write;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 26.0;
/// Distances between ticks.
const TICKS: [f64; 4] = [1.0, 2.0, 2.5, 5.0];

/// A line of a plot.
pub(super) struct Line {
    pub(super) name: &'static str,
    /// It keeps a value until the next point.
    pub(super) is_step: bool,
    /// Seconds and values; a gap where there is none.
    pub(super) points: Vec<(f64, Option<f64>)>,
}

/// A card with a plot of `lines` until `end_s`.
pub(super) fn card(title: &str, unit: &str, end_s: f64, lines: &[Line]) -> String {
    let legend = lines.iter().enumerate().map(|(i, line)| {
        format!("<span><i style=\"background:var(--s{})\"></i>{}</span>", i + 1, line.name)
    });
    let legend: String = legend.collect();
    let unit = if unit.is_empty() { String::new() } else { format!(" <small>{unit}</small>") };
    format!(
        "<div class=\"card\"><h3>{title}{unit}</h3>\n<div class=\"legend\">{legend}</div>\n{}</div>\n",
        plot(title, end_s, lines)
    )
}

fn plot(title: &str, end_s: f64, lines: &[Line]) -> String {
    let values = lines.iter().flat_map(|line| line.points.iter().filter_map(|point| point.1));
    let largest = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
    let (step_y, top_y) = scale(largest, 4.0);
    let end_s = end_s.max(1.0);
    let (step_x, _) = scale(end_s, 6.0);
    let x = |s: f64| LEFT + s / end_s * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - value / top_y * (HEIGHT - TOP - BOTTOM);
    let mut svg =
        format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n");
    for i in 0..=(top_y / step_y).round() as u32 {
        let (value, class) = (f64::from(i) * step_y, if i == 0 { "axis" } else { "grid" });
        let at = y(value);
        add(
            &mut svg,
            format_args!(
                "<line class=\"{class}\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
                WIDTH - RIGHT,
                LEFT - 8.0,
                at + 4.0,
                number(value)
            ),
        );
    }
    for i in 0..=(end_s / step_x).floor() as u32 {
        let s = f64::from(i) * step_x;
        add(
            &mut svg,
            format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{} s</text>\n",
                x(s),
                HEIGHT - 8.0,
                number(s)
            ),
        );
    }
    for (i, line) in lines.iter().enumerate() {
        let path = path(line, &x, &y);
        add(
            &mut svg,
            format_args!("<path class=\"curve\" stroke=\"var(--s{})\" d=\"{path}\"/>\n", i + 1),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn path(line: &Line, x: &dyn Fn(f64) -> f64, y: &dyn Fn(f64) -> f64) -> String {
    let mut path = String::new();
    let mut before: Option<f64> = None;
    for (s, value) in &line.points {
        let Some(value) = value.filter(|value| value.is_finite()) else {
            before = None;
            continue;
        };
        match before {
            // A level that goes on needs no point of its own.
            Some(last) if line.is_step && last == value => {
                add(&mut path, format_args!("H{:.1}", x(*s)))
            }
            Some(_) if line.is_step => {
                add(&mut path, format_args!("H{:.1}V{:.1}", x(*s), y(value)));
            }
            Some(_) => add(&mut path, format_args!("L{:.1} {:.1}", x(*s), y(value))),
            // A point alone is a dot, by the round ends of lines.
            None => add(&mut path, format_args!("M{:.1} {:.1}h0", x(*s), y(value))),
        }
        before = Some(value);
    }
    path
}

/// Distance between ticks, and a round end from `largest` on.
fn scale(largest: f64, ticks: f64) -> (f64, f64) {
    let least = if largest > 0.0 { largest / ticks } else { 1.0 / ticks };
    let power = 10f64.powf(least.log10().floor());
    let factor = TICKS.into_iter().find(|factor| factor * power >= least * (1.0 - 1e-9));
    let step = factor.unwrap_or(10.0) * power;
    (step, (largest / step - 1e-9).ceil().max(1.0) * step)
}

fn add(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("writing to a string");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_round_numbers() {
        for (largest, expected) in [(87.0, (25.0, 100.0)), (3.0, (1.0, 3.0)), (0.0, (0.25, 0.25))] {
            assert_eq!(scale(largest, 4.0), expected);
        }
    }

    #[test]
    fn gaps_are_gaps_and_steps_are_steps() {
        let line = |is_step| Line {
            name: "a",
            is_step,
            points: vec![(0.0, Some(1.0)), (1.0, Some(2.0)), (2.0, None), (3.0, Some(3.0))],
        };
        let draw = |is_step| path(&line(is_step), &|s| s, &|value| value);
        assert_eq!(draw(true), "M0.0 1.0h0H1.0V2.0M3.0 3.0h0");
        assert_eq!(draw(false), "M0.0 1.0h0L1.0 2.0M3.0 3.0h0");
    }
}
