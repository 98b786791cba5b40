// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `--generate PAPER`: the manual page and the completions, as each daemon prints its own.

use std::env;

use anyhow::{Result, bail};
use clap::{Command, CommandFactory};
use clap_complete::Shell;

use crate::args::Args;

/// All that there is, for who asks for another.
const KNOWN: &str = "man, bash, zsh, fish";

/// The paper that is asked for instead of a command.
pub(crate) fn asked() -> Option<String> {
    let mut arguments = env::args().skip(1);
    let first = arguments.next()?;
    let rest = first.strip_prefix("--generate")?;
    match rest.strip_prefix('=') {
        Some(paper) => Some(paper.to_owned()),
        None => rest.is_empty().then(|| arguments.next().unwrap_or_default()),
    }
}

/// # Errors
/// There is no such paper.
pub(crate) fn paper(paper: &str) -> Result<String> {
    let command = Args::command();
    let mut bytes = Vec::new();
    let shell = |shell: Shell, mut command: Command, bytes: &mut Vec<u8>| {
        clap_complete::generate(shell, &mut command, "vhost-device-ctl", bytes);
    };
    match paper {
        "man" => clap_mangen::Man::new(command).render(&mut bytes)?,
        "bash" => shell(Shell::Bash, command, &mut bytes),
        "zsh" => shell(Shell::Zsh, command, &mut bytes),
        "fish" => shell(Shell::Fish, command, &mut bytes),
        other => bail!("{other}: no such paper (known: {KNOWN})"),
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::{KNOWN, paper};

    #[test]
    fn each_paper_knows_the_commands() {
        for kind in KNOWN.split(", ") {
            let text = paper(kind).unwrap().replace('\\', "");
            assert!(
                text.contains("log-level") && text.contains("watch"),
                "{kind}: {text}"
            );
        }
        assert!(paper("toilet").unwrap_err().to_string().contains(KNOWN));
    }
}
