//! A plot as SVG text.

use std::fmt::Write as _;

/// The drawing, in its own units.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 44.0;

/// How a drawing looks that lies in no page.
const FILE_STYLE: &str = "text{font:12px sans-serif;fill:#444}.grid{stroke:#ddd}.axis{stroke:#888}\
    .line{fill:none;stroke-width:2}.c0{stroke:#1b6ca8}.c1{stroke:#c4472b}.c2{stroke:#3d8b40}";

/// Points of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// What the legend calls it; no entry when empty.
    pub(crate) name: String,
    /// A class that the page's style knows: `c0` to `c5`.
    pub(crate) class: &'static str,
    /// Whether they are joined by a line.
    pub(crate) line: bool,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A stretch of the horizontal axis where something was going on.
#[derive(Clone, Debug)]
pub(crate) struct Band {
    pub(crate) class: &'static str,
    pub(crate) title: String,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

/// A plot.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    pub(crate) title: &'static str,
    pub(crate) x_label: &'static str,
    pub(crate) y_label: &'static str,
    pub(crate) x_max: f64,
    /// Powers of ten up the vertical axis, from the first of them on; else from zero.
    pub(crate) log_from: Option<f64>,
    /// Words under the horizontal axis in place of numbers.
    pub(crate) x_ticks: Option<Vec<(f64, String)>>,
    pub(crate) bands: Vec<Band>,
    pub(crate) series: Vec<Series>,
}

impl Chart {
    /// The drawing.
    pub(crate) fn svg(&self) -> String {
        let mut out = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\"><title>{}</title>",
            escaped(self.title),
            escaped(self.title)
        );
        for band in &self.bands {
            let (from, to) = (self.x(band.from), self.x(band.to).max(self.x(band.from) + 1.5));
            let (width, height) = (to - from, HEIGHT - TOP - BOTTOM);
            let (class, title) = (band.class, escaped(&band.title));
            push(
                &mut out,
                format_args!(
                    "<rect class=\"band {class}\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{width:.1}\" \
                     height=\"{height:.1}\"><title>{title}</title></rect>"
                ),
            );
        }
        self.axes(&mut out);
        for series in &self.series {
            self.draw(&mut out, series);
        }
        out.push_str("</svg>");
        out
    }

    /// The drawing as a file of its own, with its legend.
    pub(crate) fn file(&self) -> String {
        let mut legend = String::new();
        for (at, series) in (0_u8..).zip(&self.series) {
            let y = TOP + 14.0 + 16.0 * f64::from(at);
            let (class, name, from, to) = (series.class, escaped(&series.name), LEFT + 12.0, LEFT + 36.0);
            push(
                &mut legend,
                format_args!(
                    "<polyline class=\"line {class}\" points=\"{from},{y} {to},{y}\"/><text x=\"{}\" y=\"{}\">{name}</text>",
                    to + 6.0,
                    y + 4.0
                ),
            );
        }
        let drawing = self.svg().replacen("<svg ", "<svg xmlns=\"http://www.w3.org/2000/svg\" ", 1);
        let style =
            format!("</title><style>{FILE_STYLE}</style><rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>");
        drawing.replacen("</title>", &style, 1).replacen("</svg>", &format!("{legend}</svg>"), 1)
    }

    fn draw(&self, out: &mut String, series: &Series) {
        let class = series.class;
        let at = |(x, y): &(f64, f64)| (self.x(*x), self.y(*y));
        if series.line {
            let points: Vec<String> = series.points.iter().map(at).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            push(out, format_args!("<polyline class=\"line {class}\" points=\"{}\"/>", points.join(" ")));
        } else {
            for (x, y) in series.points.iter().map(at) {
                push(out, format_args!("<circle class=\"dot {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"1.6\"/>"));
            }
        }
    }

    fn axes(&self, out: &mut String) {
        let (right, floor) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for value in self.y_ticks() {
            let y = self.y(value);
            push(out, format_args!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"));
            let (x, y) = (LEFT - 6.0, y + 4.0);
            push(out, format_args!("<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>", short(value)));
        }
        let ticks = self
            .x_ticks
            .clone()
            .unwrap_or_else(|| steps(self.x_max, 12.0).into_iter().map(|value| (value, short(value))).collect());
        for (value, text) in ticks {
            let (x, y) = (self.x(value), floor + 16.0);
            push(out, format_args!("<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{}</text>", escaped(&text)));
        }
        push(out, format_args!("<line class=\"axis\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{floor}\" y2=\"{floor}\"/>"));
        let (middle, low) = (f64::midpoint(LEFT, right), HEIGHT - 8.0);
        push(out, format_args!("<text x=\"{middle}\" y=\"{low}\" text-anchor=\"middle\">{}</text>", self.x_label));
        let height = f64::midpoint(TOP, floor);
        push(
            out,
            format_args!(
                "<text x=\"14\" y=\"{height}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {height})\">{}</text>",
                self.y_label
            ),
        );
    }

    fn y_max(&self) -> f64 {
        let most = self.series.iter().flat_map(|series| &series.points).map(|(_, y)| *y).fold(0.0, f64::max);
        match self.log_from {
            Some(from) => 10_f64.powf(most.max(from * 10.0).log10().ceil()),
            None if most > 0.0 => most * 1.08,
            None => 1.0,
        }
    }

    fn y_ticks(&self) -> Vec<f64> {
        match self.log_from {
            Some(from) => std::iter::successors(Some(from), |value| Some(value * 10.0))
                .take_while(|v| *v <= self.y_max())
                .collect(),
            None => steps(self.y_max(), 5.0),
        }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + (value / self.x_max.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let share = match self.log_from {
            Some(from) => (value.max(from) / from).log10() / (self.y_max() / from).log10(),
            None => value / self.y_max(),
        };
        HEIGHT - BOTTOM - share.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    out.write_fmt(text).ok();
}

/// Round numbers from zero to `most`, about `count` of them.
fn steps(most: f64, count: f64) -> Vec<f64> {
    let rough = most / count;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|it| it * power).into_iter().find(|it| *it >= rough).unwrap_or(rough);
    std::iter::successors(Some(0.0), |value| Some(value + step)).take_while(|value| *value <= most).collect()
}

fn short(value: f64) -> String {
    if value >= 1e6 && value % 1e5 == 0.0 {
        return format!("{} M", value / 1e6);
    }
    if value >= 1_000.0 && value % 1_000.0 == 0.0 {
        return format!("{} k", value / 1_000.0);
    }
    // A sum of tenths has a tail of noise.
    format!("{}", (value * 1_000.0).round() / 1_000.0)
}

/// Text that is safe inside of HTML.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_reach_as_far_as_fits() {
        assert_eq!(steps(60.0, 12.0), (0..=12).map(|step| f64::from(step * 5)).collect::<Vec<_>>());
        assert_eq!(steps(7.0, 5.0), [0.0, 2.0, 4.0, 6.0]);
        assert_eq!([short(2_000.0), short(1_500.0), short(2.5e6), short(0.1 + 0.2)], ["2 k", "1500", "2.5 M", "0.3"]);
    }

    #[test]
    fn points_lie_inside_of_the_axes_on_either_scale() {
        let series = Series { name: String::new(), class: "c0", line: true, points: vec![(0.0, 1.0), (10.0, 900.0)] };
        let mut chart = Chart {
            title: "<t>",
            x_label: "x",
            y_label: "y",
            x_max: 10.0,
            log_from: Some(1.0),
            x_ticks: None,
            bands: Vec::new(),
            series: vec![series],
        };
        assert!(chart.svg().contains("points=\"64.0,256.0 936.0,"), "{}", chart.svg());
        assert_eq!(chart.y_ticks(), [1.0, 10.0, 100.0, 1_000.0]);
        chart.log_from = None;
        assert!((chart.y(0.0) - (HEIGHT - BOTTOM)).abs() < 1e-9);
        assert!(chart.svg().contains("&lt;t&gt;"));
    }
}
