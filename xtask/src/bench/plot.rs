// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Draws ratios as bars: for each group its first two rows, a line where ours equals the peer, a mark at each goal.

use std::fmt::Write as _;

use super::report::Group;

/// Rows that are drawn; the first is the stable one.
const ROWS: usize = 2;
/// In pixels.
const BAR: f64 = 9.0;
const GAP: f64 = 8.0;
const STEP: f64 = 2.0 * BAR + GAP;
const TOP: f64 = 64.0;
const LEFT: f64 = 300.0;
const RIGHT: f64 = 60.0;
const WIDTH: f64 = 910.0;
/// Readable on white and on black.
const COLOURS: [&str; ROWS] = ["#1f77b4", "#ff9f40"];
const GOAL: &str = "#d62728";
const TEXT: &str = "#808080";

/// A picture of `groups`, as SVG.
pub(super) fn bars(title: &str, groups: &[&Group]) -> String {
    let height = TOP + pixels(groups.len()) * STEP + GAP;
    let scale = (WIDTH - LEFT - RIGHT) / longest(groups);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"{TEXT}\">\n"
    );
    text(&mut svg, 8.0, 20.0, "start", title);
    legend(&mut svg, groups);
    for (index, group) in groups.iter().enumerate() {
        let top = TOP + pixels(index) * STEP;
        text(&mut svg, LEFT - 8.0, top + BAR + 4.0, "end", &group.title);
        for (number, row) in group.rows.iter().take(ROWS).enumerate() {
            let (y, ratio) = (top + pixels(number) * BAR, row.advantage().median);
            rectangle(&mut svg, LEFT, y, ratio * scale, COLOURS[number]);
            text(
                &mut svg,
                LEFT + ratio * scale + 4.0,
                y + BAR,
                "start",
                &format!("{ratio:.1}x"),
            );
            if let Some(goal) = row.goal {
                rectangle(&mut svg, LEFT + goal * scale - 1.0, y, 3.0, GOAL);
            }
        }
    }
    let (x, top, bottom) = (LEFT + scale, TOP - 4.0, height - GAP);
    line(&mut svg, x, top, bottom);
    svg + "</svg>\n"
}

/// The greatest ratio or goal: it takes the whole width.
fn longest(groups: &[&Group]) -> f64 {
    let rows = groups.iter().flat_map(|group| group.rows.iter().take(ROWS));
    let ends = rows.flat_map(|row| [row.advantage().median, row.goal.unwrap_or(0.0)]);
    ends.fold(1.0, f64::max)
}

fn legend(svg: &mut String, groups: &[&Group]) {
    let Some(first) = groups.first() else { return };
    let names = first.rows.iter().take(ROWS).map(|row| row.title.as_str());
    let entries = names.zip(COLOURS).chain([("goal", GOAL)]);
    for (index, (name, colour)) in entries.enumerate() {
        let x = LEFT + pixels(index) * 120.0;
        rectangle(svg, x, 34.0, BAR, colour);
        text(svg, x + BAR + 6.0, 34.0 + BAR, "start", name);
    }
}

#[allow(clippy::cast_precision_loss, reason = "a few dozen rows")]
fn pixels(count: usize) -> f64 {
    count as f64
}

fn rectangle(svg: &mut String, x: f64, y: f64, width: f64, colour: &str) {
    let height = BAR - 1.0;
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{colour}\"/>"
    );
}

fn line(svg: &mut String, x: f64, top: f64, bottom: f64) {
    let _ = writeln!(
        svg,
        "<path d=\"M{x:.1} {top:.1}V{bottom:.1}\" stroke=\"{TEXT}\" stroke-dasharray=\"3\"/>"
    );
}

/// `text` is ours: a title of a row, with nothing in it to escape.
fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::super::Row;
    use super::super::report::Group;
    use super::{COLOURS, GOAL, bars};

    #[test]
    fn two_rows_give_two_bars_and_a_goal_its_mark() {
        let row = |goal, ours| Row {
            title: "IOPS".to_owned(),
            unit: "",
            higher_is_better: true,
            goal,
            pairs: vec![(ours, 1.0)],
        };
        let group = Group {
            title: "null".to_owned(),
            peer: String::new(),
            noisy: false,
            rows: vec![row(None, 2.0), row(Some(5.5), 4.0), row(Some(9.0), 8.0)],
        };
        let svg = bars("Title", &[&group]);
        // The goal is the longest: 550 pixels for 5.5, so 200 and 400 for the bars.
        for part in [
            format!("width=\"200.0\" height=\"8\" fill=\"{}\"", COLOURS[0]),
            format!("width=\"400.0\" height=\"8\" fill=\"{}\"", COLOURS[1]),
            format!("x=\"849.0\" y=\"73.0\" width=\"3.0\" height=\"8\" fill=\"{GOAL}\""),
            ">2.0x</text>".to_owned(),
            ">null</text>".to_owned(),
        ] {
            assert!(svg.contains(&part), "{part} is not in\n{svg}");
        }
        assert!(!svg.contains("8.0x") && svg.ends_with("</svg>\n"));
    }
}
