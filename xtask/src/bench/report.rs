// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Prints a benchmark: the absolute medians for whoever looks on (stderr), the ratios for the record (stdout).

use super::Row;

/// The value in the middle.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => f64::midpoint(values[len / 2 - 1], values[len / 2]),
    }
}

/// How many times better ours is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Advantage {
    /// In the median of the rounds.
    pub(super) median: f64,
    /// In the worst round.
    pub(super) worst: f64,
    /// In the best round.
    pub(super) best: f64,
}

impl Row {
    pub(super) fn advantage(&self) -> Advantage {
        let better = |(ours, theirs): &(f64, f64)| {
            if self.higher_is_better {
                ours / theirs
            } else {
                theirs / ours
            }
        };
        let mut ratios: Vec<f64> = self.pairs.iter().map(better).collect();
        Advantage {
            median: median(&mut ratios),
            worst: ratios.first().copied().unwrap_or(f64::NAN),
            best: ratios.last().copied().unwrap_or(f64::NAN),
        }
    }

    /// Whether the median reaches the goal; without one there is nothing to tell.
    pub(super) fn reached(&self) -> Option<bool> {
        self.goal.map(|goal| self.advantage().median >= goal)
    }

    /// The medians of ours and of theirs.
    fn medians(&self) -> (f64, f64) {
        let mut ours: Vec<f64> = self.pairs.iter().map(|pair| pair.0).collect();
        let mut theirs: Vec<f64> = self.pairs.iter().map(|pair| pair.1).collect();
        (median(&mut ours), median(&mut theirs))
    }
}

/// A row per line.
pub(super) fn print(peer: &str, rows: &[Row]) {
    for row in rows {
        let (ours, theirs) = row.medians();
        eprintln!(
            "{:45} ours {ours:12.2} {unit:4} {peer} {theirs:12.2} {unit}",
            row.title,
            unit = row.unit
        );
    }
    println!("| measured | ours is better by | worst to best round |");
    println!("|---|---|---|");
    for row in rows {
        let Advantage { median, worst, best } = row.advantage();
        println!("| {} | {median:.2}x | {worst:.2}x to {best:.2}x |", row.title);
    }
}

/// Several rows about the same thing, printed beside each other.
pub(super) struct Group {
    pub(super) title: String,
    /// What was measured against, where that differs from group to group.
    pub(super) peer: String,
    /// True if others used the CPUs meanwhile.
    pub(super) noisy: bool,
    /// The same rows, in the same order, in each group.
    pub(super) rows: Vec<Row>,
}

impl Group {
    /// What the goals say: nothing, reached, or which are missed.
    fn verdict(&self) -> String {
        let missed: Vec<String> = self
            .rows
            .iter()
            .filter(|row| row.reached() == Some(false))
            .map(|row| format!("{} {:.2}x", row.title, row.goal.unwrap_or_default()))
            .collect();
        match missed.as_slice() {
            [] if self.rows.iter().all(|row| row.goal.is_none()) => String::new(),
            [] => "reached".to_owned(),
            missed => format!("**missed: {}**", missed.join(", ")),
        }
    }
}

/// A group per line.
pub(super) fn print_groups(groups: &[Group]) {
    let Some(first) = groups.first() else { return };
    for group in groups {
        let cells = group.rows.iter().map(|row| {
            let (ours, theirs) = row.medians();
            format!("{} {ours:.2} / {theirs:.2} {}", row.title, row.unit)
        });
        let cells: Vec<String> = cells.collect();
        eprintln!("{:34} {} ({})", group.title, cells.join("; "), group.peer);
    }
    let columns: Vec<&str> = first.rows.iter().map(|row| row.title.as_str()).collect();
    println!("| measured | {} | peer | goal |", columns.join(" | "));
    println!("|---{}|---|---|", "|---".repeat(columns.len()));
    for group in groups {
        let cells = group.rows.iter().map(|row| {
            let Advantage { median, worst, best } = row.advantage();
            format!("{median:.2}x ({worst:.2} to {best:.2})")
        });
        let cells: Vec<String> = cells.collect();
        let mark = if group.noisy { " ~" } else { "" };
        let (title, peer, verdict) = (&group.title, &group.peer, group.verdict());
        println!("| {title}{mark} | {} | {peer} | {verdict} |", cells.join(" | "));
    }
    let goals: Vec<bool> = groups
        .iter()
        .flat_map(|group| &group.rows)
        .filter_map(Row::reached)
        .collect();
    let reached = goals.iter().filter(|reached| **reached).count();
    if !goals.is_empty() {
        println!("\nGoals reached: {reached} of {}.\n", goals.len());
    }
}

/// What is not a ratio.
pub(super) struct Fact {
    pub(super) title: String,
    pub(super) ours: String,
    pub(super) theirs: String,
    /// Whether the goal is reached, if there is one.
    pub(super) reached: Option<bool>,
}

/// A fact per line.
pub(super) fn print_facts(peer: &str, facts: &[Fact]) {
    println!("\n| measured | ours | {peer} | goal |");
    println!("|---|---|---|---|");
    for fact in facts {
        let verdict = match fact.reached {
            None => "",
            Some(true) => "reached",
            Some(false) => "**missed**",
        };
        println!("| {} | {} | {} | {verdict} |", fact.title, fact.ours, fact.theirs);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Row;
    use super::{Advantage, Group, median};

    fn row(higher_is_better: bool, goal: Option<f64>, pairs: &[(f64, f64)]) -> Row {
        Row {
            title: "rate".to_owned(),
            unit: "",
            higher_is_better,
            goal,
            pairs: pairs.to_vec(),
        }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(
            (median(&mut [3.0, 1.0, 2.0]), median(&mut [4.0, 1.0, 2.0, 3.0])),
            (2.0, 2.5)
        );
    }

    #[test]
    fn better_is_above_one_in_both_directions() {
        assert_eq!(row(true, None, &[(2.0, 1.0)]).advantage().median, 2.0);
        let all = row(false, None, &[(1.0, 4.0), (1.0, 2.0), (1.0, 1.0)]).advantage();
        let expected = Advantage {
            median: 2.0,
            worst: 1.0,
            best: 4.0,
        };
        assert_eq!(all, expected);
    }

    #[test]
    fn a_missed_goal_is_named() {
        let verdict = |goals: &[Option<f64>]| {
            Group {
                title: String::new(),
                peer: String::new(),
                noisy: false,
                rows: goals.iter().map(|goal| row(true, *goal, &[(2.0, 1.0)])).collect(),
            }
            .verdict()
        };
        assert_eq!(verdict(&[None]), "");
        assert_eq!(verdict(&[None, Some(2.0)]), "reached");
        assert_eq!(verdict(&[Some(1.0), Some(2.5)]), "**missed: rate 2.50x**");
    }
}
