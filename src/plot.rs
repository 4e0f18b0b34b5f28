//! Line charts as SVG, and the same as PNG for those who cannot show SVG.
//!
//! A chart is laid out once, as a few strokes and words; two small writers carry that out.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use font8x8::UnicodeFonts;
use tiny_skia::{Color, FillRule, Paint, PathBuilder, Pixmap, Rect, Stroke, Transform};

const WIDTH: f32 = 720.0;
const HEIGHT: f32 = 260.0;
const LEFT: f32 = 64.0;
const RIGHT: f32 = 215.0;
const TOP: f32 = 34.0;
const BOTTOM: f32 = 40.0;
/// Points of a line that are drawn; more would not be seen.
const MOST_POINTS: usize = 1500;
/// Okabe and Ito's palette, which colour-blind people can tell apart.
const PALETTE: [[u8; 3]; 7] = [
    [0, 114, 178],
    [213, 94, 0],
    [0, 158, 115],
    [204, 121, 167],
    [230, 159, 0],
    [86, 180, 233],
    [60, 60, 60],
];
const INK: [u8; 3] = [40, 40, 40];
const GRID: [u8; 3] = [222, 222, 222];

/// A chart of lines over one axis.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chart {
    /// What is shown.
    pub(crate) title: String,
    /// What goes to the right.
    pub(crate) x: String,
    /// Names and points of the lines.
    pub(crate) lines: Vec<(String, Vec<(f64, f64)>)>,
}

enum Mark {
    Line { points: Vec<(f32, f32)>, colour: [u8; 3], width: f32 },
    Word { at: (f32, f32), text: String, colour: [u8; 3], anchor: Anchor },
}

#[derive(Clone, Copy, PartialEq)]
enum Anchor {
    Start,
    Middle,
    End,
}

/// The charts below each other, as one SVG document.
pub(crate) fn svg(charts: &[Chart]) -> String {
    let height = HEIGHT * charts.len() as f32;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for mark in marks(charts) {
        let _ = match mark {
            Mark::Line { points, colour, width } => {
                let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
                let (points, colour) = (points.join(" "), hex(colour));
                writeln!(
                    text,
                    "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>"
                )
            }
            Mark::Word { at: (x, y), text: word, colour, anchor } => {
                let anchor = match anchor {
                    Anchor::Start => "start",
                    Anchor::Middle => "middle",
                    Anchor::End => "end",
                };
                let (word, colour) = (escaped(&word), hex(colour));
                writeln!(
                    text,
                    "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{colour}\" text-anchor=\"{anchor}\">{word}</text>"
                )
            }
        };
    }
    text.push_str("</svg>\n");
    text
}

/// The charts below each other, as one PNG.
pub(crate) fn png(charts: &[Chart]) -> Result<Vec<u8>> {
    let height = HEIGHT * charts.len().max(1) as f32;
    let mut pixels = Pixmap::new(WIDTH as u32, height as u32).context("charts without a size")?;
    pixels.fill(Color::WHITE);
    for mark in marks(charts) {
        match mark {
            Mark::Line { points, colour, width } => draw_line(&mut pixels, &points, colour, width),
            Mark::Word { at, text, colour, anchor } => draw_word(&mut pixels, at, &text, colour, anchor),
        }
    }
    Ok(pixels.encode_png()?)
}

fn hex([r, g, b]: [u8; 3]) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn paint([r, g, b]: [u8; 3]) -> Paint<'static> {
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color_rgba8(r, g, b, 255);
    paint
}

fn draw_line(pixels: &mut Pixmap, points: &[(f32, f32)], colour: [u8; 3], width: f32) {
    let mut path = PathBuilder::new();
    for (at, (x, y)) in points.iter().enumerate() {
        if at == 0 { path.move_to(*x, *y) } else { path.line_to(*x, *y) }
    }
    if let Some(path) = path.finish() {
        let stroke = Stroke { width, ..Stroke::default() };
        pixels.stroke_path(&path, &paint(colour), &stroke, Transform::identity(), None);
    }
}

fn draw_word(pixels: &mut Pixmap, (x, y): (f32, f32), text: &str, colour: [u8; 3], anchor: Anchor) {
    const ADVANCE: f32 = 7.0;
    let length = ADVANCE * text.chars().count() as f32;
    let start = match anchor {
        Anchor::Start => x,
        Anchor::Middle => x - length / 2.0,
        Anchor::End => x - length,
    };
    let mut path = PathBuilder::new();
    for (at, letter) in text.chars().enumerate() {
        let rows = font8x8::BASIC_FONTS.get(letter).or_else(|| font8x8::LATIN_FONTS.get(letter));
        for (row, bits) in rows.unwrap_or_default().into_iter().enumerate() {
            for column in (0..8).filter(|column| bits & (1 << column) != 0) {
                let left = start.round() + ADVANCE * at as f32 + column as f32 * ADVANCE / 8.0;
                let pixel = Rect::from_xywh(left, y.round() - 9.0 + row as f32, ADVANCE / 8.0, 1.0);
                pixel.into_iter().for_each(|pixel| path.push_rect(pixel));
            }
        }
    }
    if let Some(path) = path.finish() {
        pixels.fill_path(&path, &paint(colour), FillRule::Winding, Transform::identity(), None);
    }
}

fn marks(charts: &[Chart]) -> Vec<Mark> {
    let mut marks = Vec::new();
    for (at, chart) in charts.iter().enumerate() {
        lay_out(chart, HEIGHT * at as f32, &mut marks);
    }
    marks
}

fn lay_out(chart: &Chart, down: f32, marks: &mut Vec<Mark>) {
    let points =
        || chart.lines.iter().flat_map(|(_, points)| points).filter(|p| p.0.is_finite() && p.1.is_finite());
    let least = |f: fn(&(f64, f64)) -> f64| points().map(f).fold(f64::INFINITY, f64::min);
    let most = |f: fn(&(f64, f64)) -> f64| points().map(f).fold(f64::NEG_INFINITY, f64::max);
    let word = |at, text: String, anchor| Mark::Word { at, text, colour: INK, anchor };
    let (right, bottom) = (WIDTH - RIGHT, down + HEIGHT - BOTTOM);
    marks.push(word((LEFT, down + 20.0), chart.title.clone(), Anchor::Start));
    marks.push(word(((LEFT + right) / 2.0, bottom + 32.0), chart.x.clone(), Anchor::Middle));
    if points().next().is_none() {
        marks.push(word((LEFT, down + TOP + 20.0), "nothing to show".to_owned(), Anchor::Start));
        return;
    }
    // Amounts start at 0, so that lengths can be compared.
    let across = Scale::new(least(|p| p.0), most(|p| p.0), LEFT, right);
    let up = Scale::new(least(|p| p.1).min(0.0), most(|p| p.1), bottom, down + TOP);
    for value in up.ticks() {
        let y = up.place(value);
        marks.push(Mark::Line { points: vec![(LEFT, y), (right, y)], colour: GRID, width: 1.0 });
        marks.push(word((LEFT - 6.0, y + 4.0), number(value), Anchor::End));
    }
    for value in across.ticks() {
        let x = across.place(value);
        marks.push(Mark::Line { points: vec![(x, bottom), (x, bottom + 4.0)], colour: INK, width: 1.0 });
        marks.push(word((x, bottom + 17.0), number(value), Anchor::Middle));
    }
    for (at, (name, line)) in chart.lines.iter().enumerate() {
        let colour = PALETTE[at % PALETTE.len()];
        let line: Vec<_> = line.iter().filter(|p| p.0.is_finite() && p.1.is_finite()).collect();
        let step = line.len().div_ceil(MOST_POINTS).max(1);
        let place = |p: &&(f64, f64)| (across.place(p.0), up.place(p.1));
        let mut drawn: Vec<_> = line.iter().step_by(step).map(place).collect();
        drawn.extend(line.last().map(place));
        marks.push(Mark::Line { points: drawn, colour, width: 1.5 });
        let y = down + TOP + 8.0 + 16.0 * at as f32;
        marks.push(Mark::Line { points: vec![(right + 10.0, y), (right + 26.0, y)], colour, width: 2.5 });
        marks.push(word((right + 32.0, y + 4.0), name.clone(), Anchor::Start));
    }
}

/// From values to places on the paper.
struct Scale {
    low: f64,
    high: f64,
    from: f32,
    to: f32,
    step: f64,
}

impl Scale {
    fn new(low: f64, high: f64, from: f32, to: f32) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        let rough = (high - low) / 5.0;
        let magnitude = 10_f64.powf(rough.log10().floor());
        let nice = [1.0, 2.0, 5.0, 10.0].into_iter().find(|nice| nice * magnitude >= rough).unwrap_or(10.0);
        Self { low, high, from, to, step: nice * magnitude }
    }

    fn place(&self, value: f64) -> f32 {
        let part = (value - self.low) / (self.high - self.low);
        self.from + (self.to - self.from) * part as f32
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        let first = (self.low / self.step).ceil();
        (0..20)
            .map(move |n| (first + f64::from(n)) * self.step)
            .take_while(|value| *value <= self.high + self.step * 1e-9)
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{:.1}M", value / 1e6),
        v if v >= 1e4 => format!("{:.0}k", value / 1e3),
        v if v >= 10.0 || v == 0.0 || value.fract() == 0.0 => format!("{value:.0}"),
        v if v >= 0.1 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn charts() -> Vec<Chart> {
        let line = (0..5000).map(|n| (f64::from(n), f64::from(n % 100))).collect();
        let full = Chart { title: "a < b & c".into(), x: "time".into(), lines: vec![("one".into(), line)] };
        vec![full, Chart::default()]
    }

    #[test]
    fn svg_is_well_formed_and_thinned() {
        let text = svg(&charts());
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
        assert!(text.contains("a &lt; b &amp; c") && text.contains("nothing to show"));
        assert_eq!(text.matches("<polyline").count(), text.matches("/>").count() - 1);
        assert!(text.len() < 60_000, "{}", text.len());
    }

    #[test]
    fn png_has_the_lines_colour_and_a_size() {
        let pixels = Pixmap::decode_png(&png(&charts()).unwrap()).unwrap();
        assert_eq!((pixels.width(), pixels.height()), (720, 520));
        let [r, g, b] = PALETTE[0];
        let coloured = pixels.pixels().iter().filter(|p| (p.red(), p.green(), p.blue()) == (r, g, b)).count();
        assert!(coloured > 100, "{coloured}");
    }

    #[test]
    fn ticks_are_round_numbers_within_the_scale() {
        for (low, high) in [(0.0, 1.0), (0.0, 97.3), (12.0, 86_400.0), (5.0, 5.0)] {
            let scale = Scale::new(low, high, 0.0, 100.0);
            let ticks: Vec<f64> = scale.ticks().collect();
            assert!((2..=12).contains(&ticks.len()), "{low} {high} {ticks:?}");
            assert!(ticks.iter().all(|t| *t >= low - 1e-9 && *t <= high.max(low + 1.0) + 1e-9), "{ticks:?}");
        }
    }
}
