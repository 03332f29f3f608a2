//! Charts as inline SVG. Colours are the page's; every mark says its value when pointed at.

use super::escape;
use crate::report::{Chart, Series};
use crate::text::number;
use std::fmt::Write;

/// Of a plot, in units of its own coordinates.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 42.0;

/// Of bars: a row, and the labels beside it.
const ROW: f64 = 26.0;
const LABELS: f64 = 150.0;
const VALUES: f64 = 64.0;

/// Colours that the page defines.
const NUM_COLOURS: usize = 12;

/// There is something to draw.
pub(super) fn has_points(chart: &Chart) -> bool {
    match chart {
        Chart::Plot { series, .. } => series.iter().any(|series| !series.points.is_empty()),
        Chart::Bars { rows, .. } => rows.iter().any(|(_, parts)| !parts.is_empty()),
    }
}

/// A card with the chart.
pub(super) fn draw(chart: &Chart) -> String {
    let (title, legend, svg) = match chart {
        Chart::Plot { title, x, y, joined, series, limits } => {
            let names: Vec<&str> = series.iter().map(|series| series.name.as_str()).collect();
            (title, legend(&names), plot((x, y), *joined, series, limits))
        }
        Chart::Bars { title, unit, rows } => {
            let names = part_names(rows);
            let legend = if is_plain(rows) { String::new() } else { legend(&names) };
            (title, legend, bars(unit, rows, &names))
        }
    };
    format!("<div class=\"card\"><h2>{}</h2>\n{legend}{svg}</div>\n", escape(title))
}

fn colour(index: usize) -> String {
    format!("var(--s{})", index % NUM_COLOURS + 1)
}

fn legend(names: &[&str]) -> String {
    let entry = |(index, name): (usize, &&str)| {
        format!(
            "<span><i style=\"background:{}\"></i>{}</span>",
            colour(index),
            escape(name.trim())
        )
    };
    let entries: String = names.iter().enumerate().map(entry).collect();
    format!("<div class=\"legend\">{entries}</div>\n")
}

/// Maps values to places along one direction.
struct Scale {
    from: f64,
    until: f64,
    start: f64,
    length: f64,
    step: f64,
}

impl Scale {
    /// From 0 to a round number from the largest on.
    fn to(largest: f64, start: f64, length: f64, ticks: f64) -> Self {
        let step = nice(largest / ticks);
        let until = (largest / step - 1e-9).ceil().max(1.0) * step;
        Self { from: 0.0, until, start, length, step }
    }

    fn place(&self, value: f64) -> f64 {
        self.start + (value - self.from) / (self.until - self.from) * self.length
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        let count = ((self.until - self.from) / self.step).round() as usize;
        (0..=count).map(|i| self.from + i as f64 * self.step)
    }
}

/// The next of 1, 2, 2.5, 5 times a power of ten.
fn nice(least: f64) -> f64 {
    if !least.is_finite() || least <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(least.log10().floor());
    let factors = [1.0, 2.0, 2.5, 5.0, 10.0];
    let factor = factors.into_iter().find(|factor| factor * power >= least * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    let largest = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
    if largest > 0.0 { largest } else { 1.0 }
}

fn plot(
    (x_name, y_name): (&str, &str),
    joined: bool,
    series: &[Series],
    limits: &[(String, f64)],
) -> String {
    let points = || series.iter().flat_map(|series| series.points.iter());
    let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let x = Scale::to(largest(points().map(|p| p.0)), LEFT, width, 6.0);
    let tops = points().map(|p| p.1).chain(limits.iter().map(|limit| limit.1));
    let y = Scale::to(largest(tops), HEIGHT - BOTTOM, -height, 4.0);
    let mut svg = open(HEIGHT, &format!("{y_name} over {x_name}"));
    for tick in y.ticks() {
        let at = y.place(tick);
        let class = if tick == 0.0 { "axis" } else { "grid" };
        add(
            &mut svg,
            format_args!(
                "<line class=\"{class}\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
                WIDTH - RIGHT,
                LEFT - 8.0,
                at + 4.0,
                number(tick)
            ),
        );
    }
    for tick in x.ticks() {
        add(
            &mut svg,
            format_args!(
                "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
                x.place(tick),
                HEIGHT - BOTTOM + 17.0,
                number(tick)
            ),
        );
    }
    add(
        &mut svg,
        format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
         <text transform=\"translate(11 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
            LEFT + width / 2.0,
            HEIGHT - 6.0,
            escape(x_name),
            TOP + height / 2.0,
            escape(y_name)
        ),
    );
    for (name, value) in limits {
        let at = y.place(*value);
        add(
            &mut svg,
            format_args!(
                "<line class=\"limit\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
                WIDTH - RIGHT,
                LEFT + 6.0,
                at - 5.0,
                escape(name)
            ),
        );
    }
    for (index, series) in series.iter().enumerate() {
        marks(&mut svg, series, (&x, &y), joined, &colour(index));
    }
    svg.push_str("</svg>\n");
    svg
}

fn marks(svg: &mut String, series: &Series, (x, y): (&Scale, &Scale), joined: bool, colour: &str) {
    let places = series.points.iter().map(|&(a, b)| (x.place(a), y.place(b)));
    if joined {
        let line: Vec<String> = places.clone().map(|(a, b)| format!("{a:.1},{b:.1}")).collect();
        add(
            svg,
            format_args!(
                "<polyline class=\"curve\" stroke=\"{colour}\" points=\"{}\"><title>{}</title></polyline>\n",
                line.join(" "),
                escape(series.name.trim())
            ),
        );
    }
    // Curves of many points need no dots.
    if joined && series.points.len() > 40 {
        return;
    }
    let radius = if joined { 4.0 } else { 2.5 };
    for ((a, b), point) in places.zip(&series.points) {
        add(
            svg,
            format_args!(
                "<circle class=\"dot\" fill=\"{colour}\" cx=\"{a:.1}\" cy=\"{b:.1}\" r=\"{radius}\">\
             <title>{}: {} at {}</title></circle>\n",
                escape(series.name.trim()),
                number(point.1),
                number(point.0)
            ),
        );
    }
}

/// Every part's name, in order of appearance.
fn part_names(rows: &[(String, Vec<(String, f64)>)]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in rows.iter().flat_map(|(_, parts)| parts) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names
}

/// Each row is one bar, called like the row.
fn is_plain(rows: &[(String, Vec<(String, f64)>)]) -> bool {
    rows.iter().all(|(label, parts)| matches!(parts.as_slice(), [(name, _)] if name == label))
}

fn bars(unit: &str, rows: &[(String, Vec<(String, f64)>)], names: &[&str]) -> String {
    let total = |parts: &[(String, f64)]| parts.iter().map(|part| part.1).sum::<f64>();
    let most = largest(rows.iter().map(|(_, parts)| total(parts)));
    let length = WIDTH - LABELS - VALUES;
    let height = ROW * rows.len() as f64 + 4.0;
    let mut svg = open(height, unit);
    for (index, (label, parts)) in rows.iter().enumerate() {
        let top = ROW * index as f64 + 4.0;
        let middle = top + ROW / 2.0 + 2.0;
        add(
            &mut svg,
            format_args!(
                "<text class=\"name\" x=\"{:.1}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>\n",
                LABELS - 10.0,
                escape(label)
            ),
        );
        let mut left = LABELS;
        for (name, value) in parts.iter().filter(|part| part.1 > 0.0) {
            let place = names.iter().position(|other| other == name).unwrap_or(0);
            let colour = if is_plain(rows) { colour(0) } else { colour(place) };
            let width = value / most * length;
            add(
                &mut svg,
                format_args!(
                    "<rect class=\"part\" fill=\"{colour}\" x=\"{left:.1}\" y=\"{top:.1}\" \
                 width=\"{width:.1}\" height=\"{:.1}\" rx=\"2\"><title>{}: {} {}</title></rect>\n",
                    ROW - 8.0,
                    escape(name),
                    number(*value),
                    escape(unit)
                ),
            );
            left += width;
        }
        add(
            &mut svg,
            format_args!(
                "<text x=\"{:.1}\" y=\"{middle:.1}\">{} {}</text>\n",
                left + 8.0,
                number(total(parts)),
                escape(unit)
            ),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn open(height: f64, what: &str) -> String {
    let what = escape(what);
    format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{what}\">\n")
}

fn add(svg: &mut String, what: std::fmt::Arguments<'_>) {
    svg.write_fmt(what).expect("writing to a string");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn scales_end_at_round_numbers() {
        for (largest, until, ticks) in [(87.0, 100.0, 5), (100.0, 100.0, 5), (0.0031, 0.004, 5)] {
            let scale = Scale::to(largest, 0.0, 10.0, 4.0);
            assert!((scale.until - until).abs() < 1e-9, "{largest}: {}", scale.until);
            assert_eq!(scale.ticks().count(), ticks, "{largest}");
            assert!((scale.place(until) - 10.0).abs() < 1e-9);
        }
    }

    proptest! {
        #[test]
        fn any_points_are_drawn_inside(points in prop::collection::vec((0f64..1e12, 0f64..1e12), 1..50)) {
            let series = [Series { name: "s".to_owned(), points }];
            let svg = plot(("x", "y"), false, &series, &[]);
            prop_assert!(!svg.contains("NaN") && !svg.contains("inf"), "{}", svg);
            for part in svg.split("cx=\"").skip(1) {
                let x: f64 = part.split('"').next().unwrap_or_default().parse().unwrap();
                prop_assert!((LEFT - 0.1..=WIDTH - RIGHT + 0.1).contains(&x));
            }
        }
    }
}
