// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Debian packages by a private apt state: lists, cache and an empty dpkg status in the cache folder. Nothing on the
//! machine changes and no root is needed; only the mirror and apt's network settings are the machine's own.

use std::env;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::progress::Progress;
use super::store::{Store, entries};
use super::tools;

/// The release whose packages the lab uses, whatever the machine runs; its backports carry new kernels and QEMU.
const SUITE: &str = "trixie";
/// Package lists older than this are fetched again before a package is chosen.
const FRESH: Duration = Duration::from_secs(60 * 60);
/// Overrides the mirror.
const MIRROR_VARIABLE: &str = "VHOST_DEVICE_LAB_MIRROR";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A package in one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// The private apt state, locked for us.
pub(super) struct Apt<'a> {
    folder: PathBuf,
    progress: &'a Progress,
    _lock: File,
}

impl<'a> Apt<'a> {
    /// Opens the state in the cache folder and sees to it that its package lists are fresh.
    pub(super) fn open(store: &Store, progress: &'a Progress) -> Result<Self> {
        if !tools::installed("apt-get") {
            bail!("apt-get: not found; the lab takes its parts from Debian packages");
        }
        let folder = store.folder().join("apt");
        let apt = Self {
            _lock: store.lock("apt")?,
            folder,
            progress,
        };
        let stamp = apt.folder.join("updated");
        let age = fs::metadata(&stamp)
            .and_then(|data| data.modified())
            .ok()
            .and_then(|time| time.elapsed().ok());
        if age.is_none_or(|age| age > FRESH) {
            apt.configure()?;
            progress.run(
                "fetching the package lists",
                &mut apt.command("apt-get", &["update"]),
            )?;
            File::create(&stamp).with_context(|| stamp.display().to_string())?;
        }
        Ok(apt)
    }

    /// The package of the highest version number in its name, among the names that begin with `prefix`
    /// and go on with digits and dots.
    pub(super) fn newest(&self, prefix: &str) -> Result<Package> {
        let names = self.read("apt-cache", &["pkgnames", prefix])?;
        let number = |name: &str| -> Option<Vec<u32>> {
            name.strip_prefix(prefix)?
                .split('.')
                .map(|word| word.parse().ok())
                .collect()
        };
        let newest = names.lines().filter_map(|name| Some((number(name)?, name))).max();
        let (_, name) =
            newest.with_context(|| format!("no package {prefix}* in {SUITE} and its backports"))?;
        self.candidate(name)
    }

    /// `name` in the version that apt would install.
    pub(super) fn candidate(&self, name: &str) -> Result<Package> {
        let mut packages = self.closure(name)?.into_iter();
        packages
            .find(|package| package.name == name)
            .with_context(|| format!("{name}: no such package in {SUITE}"))
    }

    /// What would be installed for `package` on an empty system, itself included, without recommendations.
    pub(super) fn closure(&self, package: &str) -> Result<Vec<Package>> {
        let plan = self.read(
            "apt-get",
            &[
                "install",
                "--simulate",
                "--yes",
                "--no-install-recommends",
                package,
            ],
        )?;
        let packages: Vec<Package> = plan.lines().filter_map(planned).collect();
        if packages.is_empty() {
            bail!("{package}: apt-get plans nothing for it");
        }
        Ok(packages)
    }

    /// Downloads packages into `folder`; gives the files.
    pub(super) fn download(&self, packages: &[Package], folder: &Path) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let what = match packages {
            [package] => format!("downloading {package}"),
            _ => format!("downloading {} packages", packages.len()),
        };
        let mut command = self.command("apt-get", &["download"]);
        command.args(
            packages
                .iter()
                .map(|package| format!("{}={}", package.name, package.version)),
        );
        self.progress.run(&what, command.current_dir(folder))?;
        Ok(entries(folder)?
            .into_iter()
            .filter(|path| path.extension().is_some_and(|end| end == "deb"))
            .collect())
    }

    fn configure(&self) -> Result<()> {
        let folder = &self.folder;
        for name in ["lists/partial", "cache/archives/partial", "dpkg"] {
            fs::create_dir_all(folder.join(name)).with_context(|| folder.display().to_string())?;
        }
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING}: not found; install the package debian-archive-keyring");
        }
        let mirror = mirror()?;
        let write = |name: &str, text: String| {
            fs::write(folder.join(name), text).with_context(|| folder.join(name).display().to_string())
        };
        write(
            "lab.sources",
            format!(
                "Types: deb\nURIs: {mirror}\nSuites: {SUITE} {SUITE}-backports\nComponents: main\n\
                 Architectures: amd64\nSigned-By: {KEYRING}\n"
            ),
        )?;
        write("dpkg/status", String::new())?;
        write("apt.conf", configuration(folder))
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        // `-c` is read after the machine's own settings, so it has the last word.
        command
            .arg("-c")
            .arg(self.folder.join("apt.conf"))
            .args(args)
            .env("LC_ALL", "C");
        command
    }

    fn read(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self
            .command(program, args)
            .output()
            .with_context(|| program.to_owned())?;
        if !output.status.success() {
            bail!(
                "{program} {}: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n\
         APT::Architecture \"amd64\";\nAPT::Architectures \"amd64\";\n\
         APT::Default-Release \"{SUITE}-backports\";\nAPT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\nAcquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
         Dir::Etc::sourcelist \"{folder}/lab.sources\";\nDir::Etc::sourceparts \"/dev/null\";\n\
         Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"/dev/null\";\n\
         Dir::State::lists \"{folder}/lists\";\nDir::State::status \"{folder}/dpkg/status\";\n\
         Dir::Cache \"{folder}/cache\";\n"
    )
}

/// A line `Inst NAME (VERSION RELEASE [ARCHITECTURE])` of a simulated installation.
fn planned(line: &str) -> Option<Package> {
    let mut words = line.strip_prefix("Inst ")?.split_whitespace();
    let name = words.next()?.to_owned();
    let version = words.next()?.strip_prefix('(')?.to_owned();
    Some(Package { name, version })
}

/// The machine's Debian mirror, from its own apt sources.
///
/// # Errors
/// They name none.
pub fn mirror() -> Result<String> {
    if let Ok(mirror) = env::var(MIRROR_VARIABLE) {
        return Ok(mirror);
    }
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = Path::new("/etc/apt/sources.list.d");
    files.extend(
        fs::read_dir(parts)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path()),
    );
    files.sort();
    let mirrors = files.iter().filter_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        if file.extension().is_some_and(|end| end == "sources") {
            stanzas(&text)
        } else {
            lines(&text)
        }
    });
    mirrors.into_iter().next().with_context(|| {
        format!("no Debian mirror in the machine's apt sources (set {MIRROR_VARIABLE} to the address of one)")
    })
}

/// The first mirror of a Debian release in deb822 text: fields `URIs`, `Suites`, `Components` in stanzas.
fn stanzas(text: &str) -> Option<String> {
    let text: String = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| [line, "\n"])
        .collect();
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| -> Vec<&str> {
            let mut lines = stanza.lines().skip_while(|line| {
                !line
                    .split_once(':')
                    .is_some_and(|(field, _)| field.eq_ignore_ascii_case(name))
            });
            let first = lines
                .next()
                .and_then(|line| line.split_once(':'))
                .map(|(_, value)| value);
            let folded = lines.take_while(|line| line.starts_with([' ', '\t']));
            first
                .into_iter()
                .chain(folded)
                .flat_map(str::split_whitespace)
                .collect()
        };
        if !field("Types").contains(&"deb") || field("Enabled").first().is_some_and(|word| *word == "no") {
            return None;
        }
        archive(&field("URIs"), &field("Suites"), &field("Components"))
    })
}

/// The first mirror of a Debian release in one-line text: `deb [OPTIONS] URI SUITE COMPONENT...`.
fn lines(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = rest
            .strip_prefix('[')
            .map_or(Some(rest), |rest| Some(rest.split_once(']')?.1))?;
        let words: Vec<&str> = rest.split_whitespace().collect();
        archive(words.get(..1)?, words.get(1..2)?, words.get(2..)?)
    })
}

/// The address, if this is the main part of a plain Debian release: third parties name their suites otherwise or have
/// no folder `debian`, and security updates live elsewhere.
fn archive(uris: &[&str], suites: &[&str], components: &[&str]) -> Option<String> {
    let plain = |suite: &&str| suite.chars().all(|c| c.is_ascii_lowercase());
    let is_archive =
        |uri: &&&str| uri.trim_end_matches('/').ends_with("/debian") && !uri.starts_with("cdrom:");
    if !components.contains(&"main") || !suites.iter().any(plain) {
        return None;
    }
    uris.iter().find(is_archive).map(|uri| (*uri).to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Package, lines, planned, stanzas};

    #[test]
    fn mirror_of_stanzas() {
        let text = "# a comment\nTypes: deb\n# inside\nURIs: http://m.example/debian-security\nSuites: bookworm-security\n\
                    Components: main\n\nTypes: deb deb-src\nURIs:\n http://m.example/debian/\nSuites: bookworm\n \
                    bookworm-updates\ncomponents: main contrib\n";
        assert_eq!(stanzas(text).as_deref(), Some("http://m.example/debian/"));
        assert_eq!(
            stanzas(&text.replace("Types: deb deb-src", "Enabled: no\nTypes: deb")),
            None
        );
        assert_eq!(stanzas(&text.replace("deb deb-src", "deb-src")), None);
    }

    #[test]
    fn mirror_of_lines() {
        let text = "# deb http://old.example/debian bookworm main\n\
                    deb https://packages.example/tool bookworm main\n\
                    deb http://m.example/debian-security bookworm-security main\n\
                    deb-src http://m.example/debian bookworm main\n\
                    deb [arch=amd64 signed-by=/x.gpg] http://m.example/debian bookworm main non-free\n";
        assert_eq!(lines(text).as_deref(), Some("http://m.example/debian"));
        assert_eq!(lines("deb cdrom:[Debian]/debian bookworm main\n"), None);
        assert_eq!(lines("deb http://m.example/debian bookworm contrib\n"), None);
    }

    #[test]
    fn planned_packages() {
        let line = "Inst qemu-system-x86 (1:11.1.3+ds-1~bpo13+1 Debian Backports:trixie-backports [amd64])";
        let package = Package {
            name: "qemu-system-x86".into(),
            version: "1:11.1.3+ds-1~bpo13+1".into(),
        };
        assert_eq!(planned(line), Some(package));
        assert_eq!(planned("Conf libc6 (2.41-12 Debian:13 [amd64])"), None);
    }
}
