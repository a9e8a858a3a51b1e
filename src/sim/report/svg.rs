//! Line plots as SVG. Colours are the page's: classes `s0` to `s11`, by the place of a policy, and what is drawn is text.

use std::fmt::Write as _;

/// Of a plot, in units of the SVG.
const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 42.0;
/// Colours that are told apart; more lines begin again.
pub(super) const COLOURS: usize = 12;

/// A plot.
#[derive(Debug, Default)]
pub(super) struct Plot<'a> {
    pub(super) title: &'a str,
    pub(super) x: &'a str,
    pub(super) y: &'a str,
    pub(super) lines: Vec<Line>,
    /// Powers of ten are as far apart as each other.
    pub(super) log_x: bool,
    /// The top of the y axis, if it is given.
    pub(super) top: Option<f64>,
    /// Marked by a vertical line, with its name.
    pub(super) mark: Option<(f64, &'a str)>,
}

/// A line of a plot, and the area around it.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Its colour.
    pub(super) colour: usize,
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    /// From and to, by point; empty: none.
    pub(super) band: Vec<(f64, f64)>,
    /// Mark each point.
    pub(super) dots: bool,
}

/// From values to places.
struct Axis {
    low: f64,
    high: f64,
    log: bool,
    from: f64,
    to: f64,
}

// === impl Axis ===

impl Axis {
    fn place(&self, value: f64) -> f64 {
        let share = match self.log {
            true => (value.max(self.low) / self.low).log10() / (self.high / self.low).log10(),
            false => (value - self.low) / (self.high - self.low),
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Where it is marked.
    fn ticks(&self) -> Vec<f64> {
        if self.log {
            let (low, high) = (
                self.low.log10().round() as i32,
                self.high.log10().round() as i32,
            );
            return (low..=high).map(|power| 10f64.powi(power)).collect();
        }
        let step = step((self.high - self.low) / 5.0);
        let (first, last) = (
            (self.low / step).ceil() as i64,
            (self.high / step + 1e-9) as i64,
        );
        (first..=last).map(|i| i as f64 * step).collect()
    }
}

/// 1, 2 or 5 times a power of ten, and not less than `least`.
fn step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0];
    let times = times
        .iter()
        .find(|&times| times * power >= least * (1.0 - 1e-9));
    times.unwrap_or(&10.0) * power
}

// === impl Plot ===

impl Plot<'_> {
    /// `None`: there is nothing to draw.
    pub(super) fn svg(&self) -> Option<String> {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let known = |value: &f64| value.is_finite();
        let least = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::INFINITY, f64::min);
        let most = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::NEG_INFINITY, f64::max);
        let mut low = least(&mut points().map(|p| p.0).filter(known));
        let mut high = most(&mut points().map(|p| p.0).filter(known));
        let bands = self
            .lines
            .iter()
            .flat_map(|line| &line.band)
            .map(|band| band.1);
        let top = most(&mut points().map(|p| p.1).chain(bands).filter(known));
        if !(low.is_finite() && top.is_finite()) {
            return None;
        }
        if self.log_x {
            low = 10f64.powf(low.max(1e-6).log10().floor());
            high = 10f64.powf(high.max(low * 10.0).log10().ceil());
        } else if high <= low {
            (low, high) = (low.min(0.0), high.max(low.min(0.0) + 1.0));
        }
        let x = Axis {
            low,
            high,
            log: self.log_x,
            from: LEFT,
            to: WIDTH - RIGHT,
        };
        let top = self.top.unwrap_or(if top > 0.0 { top * 1.05 } else { 1.0 });
        let y = Axis {
            low: 0.0,
            high: top,
            log: false,
            from: HEIGHT - BOTTOM,
            to: TOP,
        };
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{0}"><text class="t" x="{LEFT}" y="16">{0}</text>"#,
            escape(self.title)
        );
        self.axes(&mut out, &x, &y);
        for line in &self.lines {
            line.draw(&mut out, &x, &y);
        }
        out.push_str("</svg>");
        Some(out)
    }

    fn axes(&self, out: &mut String, x: &Axis, y: &Axis) {
        for tick in y.ticks() {
            let at = y.place(tick);
            let _ = write!(
                out,
                r#"<line class="g" x1="{LEFT}" x2="{}" y1="{at:.1}" y2="{at:.1}"/><text class="n" text-anchor="end" x="{}" y="{:.1}">{}</text>"#,
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0,
                short(tick)
            );
        }
        for tick in x.ticks() {
            let at = x.place(tick);
            let _ = write!(
                out,
                r#"<line class="g" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{}"/><text class="n" text-anchor="middle" x="{at:.1}" y="{}">{}</text>"#,
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 15.0,
                short(tick)
            );
        }
        if let Some((value, name)) = self
            .mark
            .filter(|(value, _)| (x.low..x.high).contains(value))
        {
            let at = x.place(value);
            let _ = write!(
                out,
                r#"<line class="m" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{}"/><text class="n" x="{:.1}" y="{}">{}</text>"#,
                HEIGHT - BOTTOM,
                at + 4.0,
                HEIGHT - BOTTOM - 6.0,
                escape(name)
            );
        }
        let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
        let _ = write!(
            out,
            r#"<text class="n" text-anchor="middle" x="{}" y="{}">{}</text><text class="n" text-anchor="middle" transform="translate(12 {middle}) rotate(-90)">{}</text>"#,
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 8.0,
            escape(self.x),
            escape(self.y)
        );
    }
}

// === impl Line ===

impl Line {
    fn draw(&self, out: &mut String, x: &Axis, y: &Axis) {
        let colour = self.colour % COLOURS;
        let place = |px: f64, py: f64| format!("{:.1},{:.1}", x.place(px), y.place(py));
        if !self.band.is_empty() {
            let along = self.points.iter().zip(&self.band);
            let over = along.clone().map(|(point, band)| place(point.0, band.1));
            let under = along.rev().map(|(point, band)| place(point.0, band.0));
            let area: Vec<_> = over.chain(under).collect();
            let _ = write!(
                out,
                r#"<polygon class="b s{colour}" points="{}"/>"#,
                area.join(" ")
            );
        }
        let known = self
            .points
            .iter()
            .filter(|p| p.0.is_finite() && p.1.is_finite());
        let places: Vec<_> = known.map(|&(px, py)| place(px, py)).collect();
        let _ = write!(
            out,
            r#"<polyline class="l s{colour}" points="{}"><title>{}</title></polyline>"#,
            places.join(" "),
            escape(&self.name)
        );
        if self.dots {
            for place in &places {
                let (cx, cy) = place.split_once(',').unwrap_or_default();
                let _ = write!(
                    out,
                    r#"<circle class="d s{colour}" cx="{cx}" cy="{cy}" r="2.8"/>"#
                );
            }
        }
    }
}

/// A number of an axis.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        1e6.. => format!("{}M", trimmed(value / 1e6)),
        1e4.. => format!("{}k", trimmed(value / 1e3)),
        _ => trimmed(value),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Text in HTML and SVG.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}
