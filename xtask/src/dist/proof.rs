// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether the packages work, and come out the same elsewhere. Part of `cargo xtask test --full`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use vu_e2e::artifacts::{mirror, tools};
use vu_e2e::scratch::Scratch;
use vu_testkit::devices;
use vu_testkit::frontend::FrontEnd;
use vu_testkit::guest::{Guest, Options};
use vu_testkit::spawn::Process;

use super::{Kinds, Package, Source, make, sha256, write};
use crate::check::{Outcome, Step, run_steps};
use crate::test::Totals;
use crate::util;

/// Programs that look at packages, and the Debian packages that have them.
const PROGRAMS: &[(&str, &str)] = &[
    ("lintian", "lintian"),
    ("mmdebstrap", "mmdebstrap"),
    ("rpm", "rpm"),
    ("runc", "runc"),
    ("bwrap", "bubblewrap"),
];
const STEPS: [(&str, Step); 7] = [
    ("all_are_made", all_are_made),
    ("debian_packages_are_clean", debian_packages_are_clean),
    ("debian_packages_come_and_go", debian_packages_come_and_go),
    (
        "rpm_packages_need_only_the_c_library",
        rpm_packages_need_only_the_c_library,
    ),
    (
        "images_serve_under_runc_and_bubblewrap",
        images_serve_under_runc_and_bubblewrap,
    ),
    (
        "cargo_installs_them_without_a_network",
        cargo_installs_them_without_a_network,
    ),
    (
        "another_folder_gives_the_same_bytes",
        another_folder_gives_the_same_bytes,
    ),
];
/// Of a first try without hardware, in a container.
const OPTIONS: [(&str, &[&str]); 6] = [
    ("blk", &["--memory", "64M"]),
    ("gpio", &["--chip", "sim:8"]),
    ("i2c", &["--bus", "sim:regs@0x20,lm75@0x48=23.5"]),
    ("input", &["--sim", "keyboard"]),
    ("rng", &[]),
    ("vsock", &["--uds-path", "/run/host"]),
];
/// Generous: it only bounds how long a failing test takes.
const DEADLINE: Duration = Duration::from_secs(60);
/// The user in a container.
const NOBODY: u32 = 65532;

/// Runs each step; one that fails is told and counted.
pub(crate) fn steps() -> Result<Totals> {
    if let Err(error) = tools::ensure(PROGRAMS) {
        eprintln!("proofs of packages that need them will fail: {error:#}");
    }
    run_steps("packages", &STEPS)
}

/// The task of its own.
pub(super) fn run() -> Result<()> {
    let totals = steps()?;
    println!(
        "packages: {} passed, {} failed, {} skipped",
        totals.passed, totals.failed, totals.skipped
    );
    ensure!(totals.failed == 0, "a package is not as it should be");
    Ok(())
}

fn source() -> Result<(Source, Vec<Package>, PathBuf)> {
    let source = Source::open(&util::root()?)?;
    let packages = source.packages(&[])?;
    let out = source.out.join("packages");
    Ok((source, packages, out))
}

fn all_are_made() -> Result<Outcome> {
    let (source, packages, _) = source()?;
    make(&source, &packages, Kinds::ALL)?;
    Ok(Outcome::Passed)
}

fn folder(scratch: &Scratch) -> Result<PathBuf> {
    let folder = scratch.path("proof");
    fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

/// The packages whose names end so.
fn ending(out: &Path, end: &str) -> Result<Vec<PathBuf>> {
    let files = super::files(out)?.into_iter();
    let mut found: Vec<_> = files
        .filter(|file| file.to_string_lossy().ends_with(end))
        .map(|file| out.join(file))
        .collect();
    ensure!(!found.is_empty(), "no {end} in {}", out.display());
    found.sort();
    Ok(found)
}

fn debian_packages_are_clean() -> Result<Outcome> {
    let (source, _, out) = source()?;
    let mut lintian = source.tool("lintian");
    // The first upload of a package to Debian closes a bug there; this is none.
    lintian.args([
        "--allow-root",
        "--fail-on",
        "error,warning",
        "--suppress-tags",
        "initial-upload-closes-no-bugs",
    ]);
    util::run(lintian.args(ending(&out, ".deb")?))?;
    Ok(Outcome::Passed)
}

/// Unpacks an archive.
fn extract(archive: &Path, options: &[&str], into: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.arg("--directory")
        .arg(into)
        .args(options)
        .arg("--extract")
        .arg("--file")
        .arg(archive);
    util::capture(&mut tar).map(drop)
}

/// A Debian system of this release with nothing but what is essential, and systemd for its users.
fn clean_root(folder: &Path) -> Result<PathBuf> {
    let os = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let suite = os.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let suite = suite.context("/etc/os-release names no release of Debian")?;
    let cached = util::cache()?.join(format!("clean-{suite}-1.tar"));
    if !cached.is_file() {
        let partial = cached.with_extension("partial.tar");
        let mut bootstrap = tools::command("mmdebstrap");
        bootstrap.args(["--quiet", "--variant=minbase", "--include=systemd,procps", suite]);
        util::run(bootstrap.arg(&partial).arg(mirror()?))?;
        fs::rename(&partial, &cached)?;
    }
    let root = folder.join("root");
    fs::create_dir(&root)?;
    extract(&cached, &["--exclude=./dev/*"], &root)?;
    // Scripts of packages write there.
    write(&root.join("dev/null"), b"")?;
    Ok(root)
}

fn debian_packages_come_and_go() -> Result<Outcome> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Outcome::Skipped("only root may change its root".into()));
    }
    let (_, packages, out) = source()?;
    Scratch::scope(|scratch| {
        let root = clean_root(&folder(scratch)?)?;
        let inside = |words: &[&str]| util::capture(tools::command("chroot").arg(&root).args(words));
        for package in packages {
            let name = package.name.as_str();
            let file = ending(&out, ".deb")?
                .into_iter()
                .find(|file| file.to_string_lossy().contains(&format!("/{name}_")));
            fs::copy(file.with_context(|| name.to_owned())?, root.join("package.deb"))?;
            for _ in 0..2 {
                inside(&["dpkg", "--install", "/package.deb"])?;
                let version = inside(&[name, "--version"])?;
                ensure!(
                    version.trim() == format!("{name} {}", package.version),
                    "{version}"
                );
                if package.is_device() {
                    inside(&["id", name])?;
                    inside(&[
                        "systemd-analyze",
                        "--man=no",
                        "verify",
                        &format!("/usr/lib/systemd/system/{name}@.service"),
                    ])?;
                }
                inside(&["dpkg", "--purge", name])?;
                let left = inside(&[
                    "find",
                    "/usr",
                    "/etc",
                    "-name",
                    &format!("*{name}*"),
                    "-not",
                    "-path",
                    "/etc/passwd*",
                ])?;
                ensure!(left.is_empty(), "{name} leaves behind: {left}");
            }
        }
        Ok(Outcome::Passed)
    })
}

fn rpm_packages_need_only_the_c_library() -> Result<Outcome> {
    let (source, packages, out) = source()?;
    let files = ending(&out, ".rpm")?;
    ensure!(files.len() == packages.len(), "{files:?}");
    let known = [
        "libc.so.6",
        "libm.so.6",
        "libgcc_s.so.1",
        "ld-linux",
        "rpmlib(",
        "rtld(",
        "/bin/sh",
    ];
    for file in files {
        let needs = util::capture(source.tool("rpm").args(["-qp", "--requires"]).arg(&file))?;
        ensure!(needs.contains("libc.so.6"), "{}: {needs}", file.display());
        for need in needs.lines() {
            ensure!(
                known.iter().any(|known| need.starts_with(known)),
                "{}: needs {need}",
                file.display()
            );
        }
        let files = util::capture(source.tool("rpm").args(["-qpl"]).arg(&file))?;
        ensure!(
            files
                .lines()
                .any(|line| line.starts_with("/usr/bin/vhost-device-")),
            "{files}"
        );
        util::capture(source.tool("rpm").args(["-K", "--nosignature"]).arg(&file))?;
    }
    Ok(Outcome::Passed)
}

fn images_serve_under_runc_and_bubblewrap() -> Result<Outcome> {
    let (source, _, out) = source()?;
    for (device, options) in OPTIONS {
        Scratch::scope(|scratch| {
            let (folder, image) = (folder(scratch)?, out.join(format!("vhost-device-{device}.oci")));
            let (root, mut words) = unpack(&source, &image, &folder)?;
            let sockets = |container: &str| -> Result<PathBuf> {
                let sockets = folder.join(container);
                fs::create_dir(&sockets)?;
                fs::set_permissions(&sockets, fs::Permissions::from_mode(0o777))?;
                Ok(sockets)
            };
            words.extend(["--socket-path", "/run/socket"].map(str::to_owned));
            words.extend(options.iter().map(|word| (*word).to_owned()));
            util::step(&format!("{device} under bubblewrap"));
            let run = sockets("bubblewrap")?;
            serves(device, &mut bubblewrap(&root, &run, &words), &run)?;
            util::step(&format!("{device} under runc"));
            if rustix::process::geteuid().is_root() {
                let run = sockets("runc")?;
                serves(device, &mut runc(&folder, &root, &run, &words)?, &run)?;
            } else {
                util::skip(
                    &format!("packages::{device}_under_runc"),
                    "only root may use it without a delegated cgroup",
                )?;
            }
            Ok(())
        })?;
    }
    Ok(Outcome::Passed)
}

/// Unpacks an image as a container engine does, each checksum compared; its root and its command.
fn unpack(source: &Source, image: &Path, folder: &Path) -> Result<(PathBuf, Vec<String>)> {
    let blob = |descriptor: &Value| -> Result<PathBuf> {
        let digest = descriptor["digest"]
            .as_str()
            .and_then(|digest| digest.strip_prefix("sha256:"));
        let digest = digest.context("no digest")?;
        let path = image.join("blobs/sha256").join(digest);
        ensure!(
            sha256(source, &path)? == digest,
            "{}: another checksum",
            path.display()
        );
        ensure!(
            path.metadata()?.len() == descriptor["size"],
            "{}: another size",
            path.display()
        );
        Ok(path)
    };
    let read = |path: &Path| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    let index = read(&image.join("index.json"))?;
    let manifest = read(&blob(&index["manifests"][0])?)?;
    let config = read(&blob(&manifest["config"])?)?;
    let root = folder.join("root");
    fs::create_dir(&root)?;
    extract(&blob(&manifest["layers"][0])?, &["--gzip"], &root)?;
    ensure!(
        config["config"]["User"] == format!("{NOBODY}:{NOBODY}"),
        "{config}"
    );
    let words = config["config"]["Entrypoint"].as_array().context("no command")?;
    Ok((
        root,
        words
            .iter()
            .filter_map(|word| Some(word.as_str()?.to_owned()))
            .collect(),
    ))
}

fn bubblewrap(root: &Path, sockets: &Path, words: &[String]) -> Command {
    let mut command = tools::command("bwrap");
    command.args([
        "--unshare-all",
        "--die-with-parent",
        "--cap-drop",
        "ALL",
        "--uid",
        "65532",
        "--gid",
        "65532",
    ]);
    command
        .arg("--ro-bind")
        .arg(root)
        .arg("/")
        .arg("--bind")
        .arg(sockets)
        .arg("/run")
        .args(words);
    command
}

/// Without any capability, and without anything that the image does not have.
fn runc(folder: &Path, root: &Path, sockets: &Path, words: &[String]) -> Result<Command> {
    let bundle = folder.join("bundle");
    fs::create_dir(&bundle)?;
    util::capture(tools::command("runc").arg("spec").current_dir(&bundle))?;
    let config = bundle.join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&config)?)?;
    let none = json!({"bounding": [], "effective": [], "permitted": [], "ambient": []});
    spec["process"]["terminal"] = false.into();
    spec["process"]["user"] = json!({"uid": NOBODY, "gid": NOBODY});
    spec["process"]["args"] = words.into();
    spec["process"]["capabilities"] = none;
    spec["root"] = json!({"path": root, "readonly": true});
    let mount = json!({"destination": "/run", "type": "bind", "source": sockets, "options": ["bind", "rw"]});
    spec["mounts"].as_array_mut().context("no mounts")?.push(mount);
    write(&config, spec.to_string().as_bytes())?;
    let mut command = tools::command("runc");
    command
        .arg("--root")
        .arg(folder.join("state"))
        .args(["run", "--bundle"])
        .arg(&bundle);
    command.arg(format!("vhost-device-{}", std::process::id()));
    Ok(command)
}

/// Waits for the line by which a daemon tells that it listens: the path that it knows is another outside.
fn wait_until_it_listens(process: &mut Process) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    while !process
        .log()
        .tail()
        .iter()
        .any(|line| line.starts_with("Waiting for vhost-user socket"))
    {
        ensure!(process.try_wait()?.is_none(), "the container has ended");
        ensure!(Instant::now() < end, "it does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Starts a container, and drives the device in it as a guest would.
fn serves(device: &str, command: &mut Command, sockets: &Path) -> Result<()> {
    let socket = sockets.join("socket");
    let mut process = Process::start(command)?;
    let served = (|| -> Result<()> {
        wait_until_it_listens(&mut process)?;
        let profile = devices::by_name(device).with_context(|| format!("{device}: no such device"))?;
        let front = FrontEnd::connect(&socket, DEADLINE)?;
        let options = Options {
            deadline: DEADLINE,
            ..Options::default()
        };
        // Negotiates, shares memory and starts all virtqueues.
        let mut guest = Guest::boot(front, &*profile, &options)?;
        // The others answer to what is set up around them.
        if ["blk", "i2c", "rng"].contains(&device) {
            guest.lane().round_trip(&*profile, 64)?;
        }
        Ok(())
    })();
    let log = process.log().tail().join("\n");
    process.terminate();
    let ended = process.wait(DEADLINE);
    served.with_context(|| log.clone())?;
    ended?;
    ensure!(
        log.contains("sandbox: no-new-privs") && log.contains("seccomp="),
        "it is not confined: {log}"
    );
    Ok(())
}

/// Packs the crates as they are published, and installs each program from a registry that is a folder.
fn cargo_installs_them_without_a_network() -> Result<Outcome> {
    let (source, packages, _) = source()?;
    Scratch::scope(|scratch| {
        let folder = folder(scratch)?;
        let registry = folder.join("registry");
        util::capture(util::cargo(&["vendor", "--locked", "--quiet", "--versioned-dirs"])?.arg(&registry))?;
        let crates = folder.join("crates");
        util::run(crate::check::pack()?.arg("--target-dir").arg(&crates))?;
        for file in ending(&crates.join("package"), ".crate")? {
            extract(&file, &["--gzip"], &registry)?;
            let name = file.file_stem().context("a file has a name")?;
            let sum = json!({"files": {}, "package": sha256(&source, &file)?});
            write(
                &registry.join(name).join(".cargo-checksum.json"),
                sum.to_string().as_bytes(),
            )?;
        }
        let home = folder.join("home");
        let replaced = format!(
            "[source.crates-io]\nreplace-with = \"folder\"\n[source.folder]\ndirectory = {registry:?}\n"
        );
        write(&home.join("config.toml"), replaced.as_bytes())?;
        for package in packages {
            let mut install = util::cargo(&[
                "install",
                "--offline",
                "--locked",
                "--debug",
                "--quiet",
                "--version",
            ])?;
            install
                .args([&package.version, &package.name])
                .arg("--root")
                .arg(folder.join("installed"));
            install
                .current_dir(&folder)
                .env("CARGO_HOME", &home)
                .env("CARGO_TARGET_DIR", folder.join("target"));
            util::run(&mut install)?;
            let program = folder.join("installed/bin").join(&package.name);
            let version = util::capture(Command::new(program).arg("--version"))?;
            ensure!(
                version.trim() == format!("{} {}", package.name, package.version),
                "{version}"
            );
        }
        Ok(Outcome::Passed)
    })
}

/// Builds and packs a copy of the tree, and compares all checksums.
fn another_folder_gives_the_same_bytes() -> Result<Outcome> {
    let (source, packages, out) = source()?;
    Scratch::scope(|scratch| {
        let copy = folder(scratch)?.join("a").join("copy");
        let mut list = Command::new("git");
        list.current_dir(&source.root)
            .args(["ls-files", "--cached", "--others", "--exclude-standard"]);
        for file in util::capture(&mut list)?.lines() {
            let from = source.root.join(file);
            if from.is_file() {
                write(&copy.join(file), &fs::read(&from)?)?;
            }
        }
        let mut other = Source::open(&source.root)?;
        other.root.clone_from(&copy);
        other.out = copy.join("target/dist");
        let elsewhere = make(&other, &packages, Kinds::ALL)?;
        let sums = |out: &Path| fs::read_to_string(out.join("SHA256SUMS"));
        let (ours, theirs) = (sums(&out)?, sums(&elsewhere)?);
        let differ: Vec<_> = ours.lines().filter(|line| !theirs.contains(*line)).collect();
        if !differ.is_empty() || ours.len() != theirs.len() {
            bail!("not the same: {differ:?}");
        }
        Ok(Outcome::Passed)
    })
}
