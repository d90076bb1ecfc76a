//! Line charts as SVG, and the page they stand on: plain text, nothing to load from anywhere.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 180.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 34.0;
/// Told apart by colour-blind readers, too (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const TICKS: u32 = 4;

/// A named line, one value for each step of the horizontal axis.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) values: Vec<f64>,
}

impl Line {
    pub(super) fn new(name: impl Into<String>, values: Vec<f64>) -> Self {
        Self { name: name.into(), values }
    }
}

/// A chart of lines over seconds; `marks` are named instants on the horizontal axis.
pub(super) fn chart(title: &str, unit: &str, lines: &[Line], marks: &[(f64, String)]) -> String {
    let steps = lines.iter().map(|line| line.values.len()).max().unwrap_or(0).max(2);
    let top = lines.iter().flat_map(|line| &line.values).copied().fold(0.0, f64::max);
    let top = round_up(top.max(1.0));
    #[expect(clippy::cast_precision_loss, reason = "a run has few seconds")]
    let last = (steps - 1) as f64;
    let x = |step: f64| LEFT + step / last * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"18\" font-size=\"13\">{}</text>\n",
        escaped(title)
    );
    let mut add = |text: String| svg.push_str(&text);
    for tick in 0..=TICKS {
        let value = top * f64::from(tick) / f64::from(TICKS);
        let at = y(value);
        add(format!(
            "<line x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            short(value)
        ));
    }
    add(format!("<text x=\"6\" y=\"{TOP}\">{}</text>\n", escaped(unit)));
    add(format!(
        "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{last:.0} s</text>\
         <text x=\"{LEFT}\" y=\"{:.0}\">0</text>\n",
        WIDTH - RIGHT,
        HEIGHT - 14.0,
        HEIGHT - 14.0
    ));
    for (at, name) in marks {
        let at = x(*at);
        add(format!(
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.0}\" stroke=\"#888\" \
             stroke-dasharray=\"4 3\"/><text x=\"{:.1}\" y=\"{:.0}\">{}</text>\n",
            HEIGHT - BOTTOM,
            at + 3.0,
            TOP + 9.0,
            escaped(name)
        ));
    }
    for (number, (line, colour)) in (0_u32..).zip(lines.iter().zip(COLOURS.iter().cycle())) {
        let mut points = String::new();
        for (step, value) in (0_u32..).zip(&line.values) {
            write!(points, "{:.1},{:.1} ", x(f64::from(step)), y(*value))
                .expect("writing to a string cannot fail");
        }
        let legend = TOP + 14.0 + f64::from(number) * 16.0;
        let (from, to) = (WIDTH - RIGHT + 10.0, WIDTH - RIGHT + 26.0);
        add(format!(
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\" points=\"{}\"/>\
             <line x1=\"{from:.0}\" x2=\"{to:.0}\" y1=\"{:.0}\" y2=\"{:.0}\" stroke=\"{colour}\" \
             stroke-width=\"3\"/><text x=\"{:.0}\" y=\"{legend:.0}\">{}</text>\n",
            points.trim_end(),
            legend - 4.0,
            legend - 4.0,
            to + 5.0,
            escaped(&line.name)
        ));
    }
    svg.push_str("</svg>\n");
    svg
}

/// A page with a table and charts.
pub(super) fn page<'a>(table: &str, plots: impl Iterator<Item = &'a (String, String)>) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>bugler torture</title>\n\
         <style>body{{font-family:sans-serif;margin:2em}}pre{{overflow-x:auto;font-size:12px}}\
         svg{{max-width:860px;display:block}}</style>\n<h1>bugler torture</h1>\n<pre>{}</pre>\n",
        escaped(table)
    );
    for (title, svg) in plots {
        write!(page, "<h2>{}</h2>\n{svg}", escaped(title))
            .expect("writing to a string cannot fail");
    }
    page.push_str("</html>\n");
    page
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The next 1, 2, 2.5 or 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0];
    let fit = steps.into_iter().find(|step| step * power >= value);
    fit.unwrap_or(10.0) * power
}

fn short(value: f64) -> String {
    if value >= 10_000.0 { format!("{:.0}k", value / 1000.0) } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_holds_every_line_and_no_raw_markup() {
        let lines = [Line::new("a < b", vec![0.0, 5.0, 7.0]), Line::new("c", vec![1.0])];
        let svg = chart("T & U", "1/s", &lines, &[(1.0, String::from("here"))]);
        assert_eq!(svg.matches("<polyline").count(), 2);
        for text in ["a &lt; b", "T &amp; U", "here", "</svg>"] {
            assert!(svg.contains(text), "{text}");
        }
        let plots = [(String::from("one"), svg)];
        let page = page("<table>", plots.iter());
        assert!(page.contains("&lt;table&gt;") && page.contains("<svg"));
    }

    #[test]
    fn an_axis_ends_at_a_round_number_above_all_values() {
        for (value, top) in [(1.0, 1.0), (11.0, 20.0), (230.0, 250.0), (4_999.0, 5_000.0)] {
            assert!((round_up(value) - top).abs() < 0.001, "{value}");
        }
    }
}
