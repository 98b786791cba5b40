// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `--generate PAPER`: what comes with a program, from its own binary, which is all that `cargo install` leaves. Packages are
//! made from the same.

mod apparmor;
mod units;

use std::env;

use anyhow::{Result, bail};
use clap::Command;
use clap_complete::Shell;

use crate::about::About;

/// All that there is, for who asks for another.
const KNOWN: &str = "man, bash, zsh, fish, service, socket, sysusers, apparmor, json";
/// The types that libvirt knows (`qemuVhostUserTypeParse`): a file of another keeps it from starting any guest with a daemon.
const DISCOVERED: [&str; 8] = ["block", "console", "fs", "gpu", "input", "rng", "scsi", "vsock"];

/// The paper that the arguments ask for. As with `--print-capabilities`, nothing else need be given.
pub(crate) fn asked() -> Option<String> {
    let mut arguments = env::args_os().skip(1);
    let text = arguments.find_map(|argument| {
        let argument = argument.into_string().ok()?;
        let rest = argument.strip_prefix("--generate")?;
        (rest.is_empty() || rest.starts_with('=')).then(|| rest.to_owned())
    })?;
    Some(match text.strip_prefix('=') {
        Some(paper) => paper.to_owned(),
        None => arguments
            .next()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    })
}

/// The paper of the daemon that `command` and `about` describe.
///
/// # Errors
/// There is no such paper, or none for this device.
pub(crate) fn paper(paper: &str, mut command: Command, about: &About) -> Result<String> {
    let name = command.get_name().to_owned();
    let shell = |shell: Shell, command: &mut Command| {
        let mut bytes = Vec::new();
        clap_complete::generate(shell, command, &name, &mut bytes);
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match paper {
        "man" => man(command, about),
        "bash" => shell(Shell::Bash, &mut command),
        "zsh" => shell(Shell::Zsh, &mut command),
        "fish" => shell(Shell::Fish, &mut command),
        "service" => Ok(units::service(&name, about)),
        "socket" => Ok(units::socket(&name)),
        "sysusers" => Ok(units::sysusers(&name)),
        "apparmor" => Ok(apparmor::profile(&name, about)),
        "json" if DISCOVERED.contains(&about.kind) => Ok(json(&name, about)),
        "json" => bail!(
            "json: libvirt does not know the type {}, and with such a file starts no guest that has a vhost-user daemon",
            about.kind
        ),
        other => bail!("{other}: no such paper (known: {KNOWN})"),
    }
}

/// A page of section 1.
fn man(command: Command, about: &About) -> Result<String> {
    let mut bytes = Vec::new();
    clap_mangen::Man::new(command).render(&mut bytes)?;
    let mut page = String::from_utf8_lossy(&bytes).into_owned();
    if !about.commands.is_empty() {
        page.push_str("\n.SH COMMANDS\nAt the control socket, by \\fBvhost\\-device\\-ctl\\fR(1), beside those of every daemon:\n");
    }
    for command in about.commands {
        let escape = |text: &str| {
            text.replace('\\', "\\\\")
                .replace('-', "\\-")
                .replace('\'', "\\(aq")
        };
        let (name, arguments, help) = (
            escape(command.name),
            escape(command.arguments),
            escape(command.help),
        );
        page.push_str(&format!(".TP\n\\fB{name}\\fR {arguments}\n{help}\n"));
    }
    page.push_str(
        r#"
.SH "EXIT STATUS"
.TP
\fB0\fR
after SIGTERM or SIGINT, or when the front end of \fB\-\-fd\fR has left
.TP
\fB1\fR
something could not be set up: the last line on standard error says what
.TP
\fB2\fR
arguments that do not parse
.SH SIGNALS
SIGTERM and SIGINT end the daemon once the requests under way are answered, and after two seconds at the latest; a second one ends
it at once. SIGHUP has it look at the host's side again, as the size of an image.
.SH "SEE ALSO"
\fBvhost\-device\-ctl\fR(1), \fBqemu\fR(1)
"#,
    );
    Ok(page)
}

/// The file by which libvirt finds the daemon.
fn json(name: &str, about: &About) -> String {
    let file = serde_json::json!({
        "description": format!("{name} of the vhost-device suite"),
        "type": about.kind,
        "binary": format!("/usr/bin/{name}"),
        "tags": ["vhost-device"],
    });
    format!("{file:#}\n")
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::{KNOWN, paper};
    use crate::about::About;

    #[test]
    fn each_paper_is_there_and_names_the_daemon() {
        for kind in KNOWN.split(", ") {
            let text = paper(kind, Command::new("vhost-device-rng"), &About::new("rng")).unwrap();
            assert!(
                text.replace('\\', "").contains("vhost-device-rng"),
                "{kind}: {text}"
            );
        }
    }

    #[test]
    fn a_type_that_libvirt_does_not_know_is_not_to_be_found() {
        let error = paper("json", Command::new("vhost-device-gpio"), &About::new("gpio")).unwrap_err();
        assert!(
            error.to_string().contains("does not know the type gpio"),
            "{error}"
        );
    }

    #[test]
    fn another_paper_is_an_error_that_names_those_there_are() {
        let error = paper("toilet", Command::new("vhost-device-rng"), &About::new("rng")).unwrap_err();
        assert!(error.to_string().contains(KNOWN), "{error}");
    }
}
