//! Lines in panels, as SVG. There is no background, and all colours can be told from a light one and from a dark one.

use std::fmt::Write;

use crate::table::number;

const WIDTH: f64 = 780.0;
const HEIGHT: f64 = 380.0;
/// Around the lines of a panel: left, right (where their names stand), top, bottom.
const MARGINS: [f64; 4] = [70.0, 190.0, 44.0, 54.0];
/// What stands left of the numbers of the upright axis.
const AXIS_TITLE: f64 = 20.0;
/// Names of lines are at least so far apart.
const NAME_HEIGHT: f64 = 17.0;

const GREY: &str = "#7a8590";
const COLOURS: [(&str, &str); 5] =
    [("bare", GREY), ("pgbench", "#b05fc4"), ("uncached", "#2f83e0"), ("cached and", "#e0701a"), ("cached, no", "#2f9e50")];

pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) lines: Vec<Line>,
}

/// Its colour follows from how its name begins, so that it is the same in all panels.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) dashed: bool,
}

pub(crate) struct Axis {
    title: &'static str,
    /// From where to where; a logarithmic one is as long as it has to be.
    linear: Option<(f64, f64)>,
}

impl Axis {
    pub(crate) fn linear(title: &'static str, from: f64, to: f64) -> Self {
        Self { title, linear: Some((from, to)) }
    }

    pub(crate) fn log(title: &'static str) -> Self {
        Self { title, linear: None }
    }
}

/// A number's place between the ends of an axis.
struct Scale {
    from: f64,
    to: f64,
    log: bool,
    ticks: Vec<f64>,
}

impl Scale {
    /// With a tick at each of the values.
    fn of_steps(axis: &Axis, values: &[f64]) -> Self {
        let mut ticks = values.to_vec();
        ticks.sort_by(f64::total_cmp);
        ticks.dedup();
        let (from, to) = axis.linear.unwrap_or((ticks[0], ticks[ticks.len() - 1]));
        Self { from, to, log: axis.linear.is_none(), ticks }
    }

    /// With round numbers that enclose the values.
    fn around(axis: &Axis, values: &[f64]) -> Self {
        if let Some((from, to)) = axis.linear {
            return Self { from, to, log: false, ticks: vec![from, to] };
        }
        let round: Vec<f64> = (-6..9).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power))).collect();
        let (least, most) = (values.iter().copied().fold(f64::INFINITY, f64::min), values.iter().copied().fold(0.0, f64::max));
        let from = round.iter().rposition(|tick| *tick <= least).unwrap_or(0);
        let to = round.iter().position(|tick| *tick >= most).unwrap_or(round.len() - 1);
        Self { from: round[from], to: round[to], log: true, ticks: round[from..=to].to_vec() }
    }

    /// 0 at one end, 1 at the other.
    fn place(&self, value: f64) -> f64 {
        let scaled = |value: f64| if self.log { value.ln() } else { value };
        (scaled(value) - scaled(self.from)) / (scaled(self.to) - scaled(self.from))
    }
}

pub(crate) fn draw(panels: &[Panel]) -> String {
    let height = HEIGHT * crate::table::count(panels.len());
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"{} 0 {} {height}\" width=\"{}\" height=\"{height}\" \
         font-family=\"system-ui, 'DejaVu Sans', sans-serif\" font-size=\"13\">\n",
        -AXIS_TITLE,
        WIDTH + AXIS_TITLE,
        WIDTH + AXIS_TITLE
    );
    for (nth, panel) in panels.iter().enumerate() {
        let _ = writeln!(svg, "<g transform=\"translate(0 {})\">\n{}</g>", HEIGHT * crate::table::count(nth), panel.draw());
    }
    svg + "</svg>\n"
}

impl Panel {
    fn draw(&self) -> String {
        let [left, right, top, bottom] = MARGINS;
        let drawn = |line: &Line| line.points.iter().copied().filter(|(_, y)| y.is_finite() && *y > 0.0).collect::<Vec<_>>();
        let lines: Vec<_> = self.lines.iter().map(|line| (line, drawn(line))).filter(|(_, points)| !points.is_empty()).collect();
        let all: Vec<_> = lines.iter().flat_map(|(_, points)| points).collect();
        if all.is_empty() {
            return String::new();
        }
        let scale_x = Scale::of_steps(&self.x, &all.iter().map(|(x, _)| *x).collect::<Vec<_>>());
        let scale_y = Scale::around(&self.y, &all.iter().map(|(_, y)| *y).collect::<Vec<_>>());
        let x = |value: f64| left + (WIDTH - left - right) * scale_x.place(value);
        let y = |value: f64| HEIGHT - bottom - (HEIGHT - top - bottom) * scale_y.place(value);
        let (end, foot, middle) = (WIDTH - right, HEIGHT - bottom, f64::midpoint(left, WIDTH - right));

        let mut svg = String::new();
        let _ = writeln!(svg, "<text x=\"{left}\" y=\"22\" font-size=\"15\" font-weight=\"bold\" fill=\"{GREY}\">{}</text>", self.title);
        for tick in &scale_y.ticks {
            let at = y(*tick);
            let decimals = if *tick < 0.1 { 2 } else { usize::from(*tick < 1.0) };
            let _ = writeln!(svg, "<path d=\"M{left} {at:.1}H{end}\" stroke=\"{GREY}\" stroke-opacity=\"0.3\"/>");
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"{GREY}\">{}</text>",
                left - 8.0,
                at + 4.0,
                number(*tick, decimals)
            );
        }
        for tick in &scale_x.ticks {
            let at = x(*tick);
            let _ = writeln!(svg, "<path d=\"M{at:.1} {foot}v5\" stroke=\"{GREY}\"/>");
            let _ = writeln!(
                svg,
                "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"{GREY}\">{}</text>",
                foot + 20.0,
                number(*tick, 0)
            );
        }
        let _ = writeln!(svg, "<path d=\"M{left} {foot}H{end}\" stroke=\"{GREY}\"/>");
        let _ = writeln!(svg, "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" fill=\"{GREY}\">{}</text>", foot + 42.0, self.x.title);
        let _ = writeln!(
            svg,
            "<text transform=\"translate(-4 {:.1}) rotate(-90)\" text-anchor=\"middle\" fill=\"{GREY}\">{}</text>",
            f64::midpoint(top, foot),
            self.y.title
        );
        for (line, points) in &lines {
            let places: Vec<_> = points.iter().map(|point| (x(point.0), y(point.1))).collect();
            let path: Vec<_> = places.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
            let (colour, dashes) = (line.colour(), if line.dashed { " stroke-dasharray=\"6 4\"" } else { "" });
            let _ = writeln!(svg, "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>", path.join("L"));
            for (x, y) in places {
                let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
            }
        }
        let ends = lines.iter().map(|(line, points)| (y(points[points.len() - 1].1), *line));
        for (at, line) in apart(ends.collect()) {
            let _ = writeln!(svg, "<text x=\"{}\" y=\"{:.1}\" fill=\"{}\">{}</text>", end + 10.0, at + 4.0, line.colour(), line.name);
        }
        svg
    }
}

impl Line {
    fn colour(&self) -> &'static str {
        COLOURS.iter().find(|(begin, _)| self.name.starts_with(begin)).map_or(GREY, |(_, colour)| colour)
    }
}

/// From top to bottom, none on top of another: those that crowd are moved up and down alike.
fn apart(mut names: Vec<(f64, &Line)>) -> Vec<(f64, &Line)> {
    names.sort_by(|a, b| a.0.total_cmp(&b.0));
    for _ in 0..100 {
        for nth in 1..names.len() {
            let lacking = NAME_HEIGHT - (names[nth].0 - names[nth - 1].0);
            if lacking > 0.0 {
                names[nth - 1].0 -= lacking / 2.0;
                names[nth].0 += lacking / 2.0;
            }
        }
    }
    names
}
