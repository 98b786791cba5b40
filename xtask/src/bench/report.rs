// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Prints a benchmark: the absolute medians for whoever looks on (stderr), the ratios for the record (stdout).

use super::Row;

/// The value in the middle.
fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => f64::midpoint(values[len / 2 - 1], values[len / 2]),
    }
}

/// How many times better ours is, in the median of the rounds, and in the worst and the best of them.
fn advantage(row: &Row) -> (f64, f64, f64) {
    let better = |(ours, theirs): &(f64, f64)| {
        if row.higher_is_better {
            ours / theirs
        } else {
            theirs / ours
        }
    };
    let mut ratios: Vec<f64> = row.pairs.iter().map(better).collect();
    let middle = median(&mut ratios);
    (
        middle,
        ratios.first().copied().unwrap_or(f64::NAN),
        ratios.last().copied().unwrap_or(f64::NAN),
    )
}

pub(super) fn print(rows: &[Row]) {
    for row in rows {
        let mut ours: Vec<f64> = row.pairs.iter().map(|pair| pair.0).collect();
        let mut theirs: Vec<f64> = row.pairs.iter().map(|pair| pair.1).collect();
        let (ours, theirs) = (median(&mut ours), median(&mut theirs));
        eprintln!(
            "{:45} ours {ours:12.2} {unit:4} rust-vmm {theirs:12.2} {unit}",
            row.title,
            unit = row.unit
        );
    }
    println!("| measured | ours is better by | worst to best round |");
    println!("|---|---|---|");
    for row in rows {
        let (middle, worst, best) = advantage(row);
        println!("| {} | {middle:.2}x | {worst:.2}x to {best:.2}x |", row.title);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Row;
    use super::{advantage, median};

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(
            (median(&mut [3.0, 1.0, 2.0]), median(&mut [4.0, 1.0, 2.0, 3.0])),
            (2.0, 2.5)
        );
    }

    #[test]
    fn better_is_above_one_in_both_directions() {
        let row = |higher_is_better, pairs| Row {
            title: String::new(),
            unit: "",
            higher_is_better,
            pairs,
        };
        assert_eq!(advantage(&row(true, vec![(2.0, 1.0)])).0, 2.0);
        assert_eq!(
            advantage(&row(false, vec![(1.0, 4.0), (1.0, 2.0), (1.0, 1.0)])),
            (2.0, 1.0, 4.0)
        );
    }
}
