// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Buses of the host, from an adapter of a simulated host to a driver of its guest. The adapter is i2c-stub, which
//! knows SMBus commands only, or lab_i2c, which takes plain messages and writes down how they came: see
//! `tests/guest/modules/lab_i2c.c`.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use vu_e2e::artifacts::Lab;
use vu_e2e::daemon::{self, Profile};
use vu_e2e::guest::Script;
use vu_e2e::host::{Host, Step};
use vu_e2e::launch::Launch;
use vu_e2e::qemu::Qemu;
use vu_e2e::quick;
use vu_e2e::scratch::Scratch;
use vu_e2e::uml::Uml;

/// The virtio device id of an I2C adapter.
const ID: u32 = 34;
const SOCKET: &str = "/run/i2c.sock";
/// The transfers that lab_i2c has seen, one a line.
const LOG: &str = "/sys/module/lab_i2c/parameters/log";
/// What the EEPROM of lab_i2c begins with.
const EEPROM: &str = "/sys/module/lab_i2c/parameters/eeprom";
const DRIVER: &str = "/sys/bus/platform/drivers/lab_i2c";

/// The daemon's program, built once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| daemon::build("vhost-device-i2c", Profile::Debug).unwrap())
}

/// A guest under User-mode Linux that waits for tasks.
fn uml(lab: &Lab) -> Result<Launch> {
    let guest = Uml::new(&lab.um_kernel()?, &lab.guest_program()?).device(ID, Path::new(SOCKET));
    Ok(guest.script(&Script::serve()).launch(Path::new("/run")))
}

/// A guest under QEMU that waits for tasks.
fn qemu(lab: &Lab) -> Result<Launch> {
    let guest = Qemu::new(&lab.qemu()?, &lab.x86_boot()?).device("vhost-user-i2c-pci", Path::new(SOCKET));
    Ok(guest.script(&Script::serve()).launch(Path::new("/run")))
}

/// Which adapter the host has.
#[derive(Clone, Copy)]
enum Adapter {
    /// lab_i2c with these parameters.
    Lab(&'static str),
    /// i2c-stub with a chip at 0x48 and one at 0x50.
    Stub,
}

impl Adapter {
    fn insert(self, lab: &Lab) -> Result<Step> {
        Ok(match self {
            Self::Lab(parameters) => Step::insert(&lab.lab_module("lab_i2c")?, parameters),
            Self::Stub => Step::insert(&lab.um_module("i2c-stub")?, "chip_addr=0x48,0x50"),
        })
    }
}

/// Plays `steps` on a host with an adapter, of which a guest has what `args` say. In the end the guest has gone and the
/// daemon has nothing to do. Gives what the steps have found.
fn play(
    guest: fn(&Lab) -> Result<Launch>,
    adapter: Adapter,
    args: &[&str],
    steps: impl IntoIterator<Item = Step>,
) -> Result<Vec<Value>> {
    play_with(guest, adapter, &[], args, steps)
}

/// As [`play`], with `before` done between the adapter and the daemon.
fn play_with(
    guest: fn(&Lab) -> Result<Launch>,
    adapter: Adapter,
    before: &[Step],
    args: &[&str],
    steps: impl IntoIterator<Item = Step>,
) -> Result<Vec<Value>> {
    Scratch::scope(|scratch| {
        let lab = Lab::open()?;
        let host = Host::new(&lab.um_kernel()?, &lab.guest_program()?).then(adapter.insert(&lab)?);
        let host = before
            .iter()
            .cloned()
            .fold(host, Host::then)
            .daemon(program(), args, Path::new(SOCKET))
            .guest(&guest(&lab)?)
            .then(Step::event("ready"));
        let host = steps.into_iter().fold(host, Host::then);
        let host = host
            .then(Step::say("poweroff"))
            .then(Step::end(60))
            .then(Step::idle());
        let found = host.play(scratch)?;
        // Before the steps, the guest was ready.
        let ready = found.iter().position(|found| found["event"] == "ready");
        Ok(found.into_iter().skip(ready.map_or(0, |at| at + 1)).collect())
    })
}

/// Whether the test `name` is left out of this run.
fn skips(name: &str) -> Result<bool> {
    quick::skips(&format!("i2c::host::{name}"))
}

/// Has the guest do a transfer, and finds its result.
fn transfer(messages: &str) -> [Step; 2] {
    task(&format!("i2c,do=transfer,m={messages}"))
}

/// Has the guest do a task that is done at once, and finds its result.
fn task(line: &str) -> [Step; 2] {
    [Step::say(line), Step::result("i2c")]
}

/// Has the guest try a transfer that must fail, and finds its result.
fn refused(messages: &str) -> [Step; 2] {
    [
        Step::say(&format!("i2c,do=transfer,m={messages}")),
        Step::failure("i2c"),
    ]
}

/// Has lab_i2c forget what it has seen.
fn forget() -> Step {
    Step::write(LOG, "-")
}

fn messages(guest: fn(&Lab) -> Result<Launch>) -> Result<()> {
    let steps = [
        vec![forget()],
        transfer("51w00deadbeef").to_vec(),
        vec![Step::contains(EEPROM, "deadbeef00"), Step::expect(LOG, "51w5")],
        vec![forget()],
        transfer("51w01+51r3").to_vec(),
        vec![Step::expect(LOG, "51w1 51r3"), forget()],
        transfer("51w00+51r1+51w02+51r2").to_vec(),
        vec![Step::expect(LOG, "51w1 51r1 51w1 51r2"), forget()],
        transfer("51w").to_vec(),
        vec![Step::expect(LOG, "51w0"), forget()],
        refused("30w00").to_vec(),
        vec![Step::expect(LOG, "30w1"), forget()],
        transfer("51w00").to_vec(),
        refused("51w0077+30r1").to_vec(),
        vec![Step::contains(LOG, "51w1\n51w2 30r1")],
    ];
    let found = play(
        guest,
        Adapter::Lab(""),
        &["--bus", "lab_i2c"],
        steps.into_iter().flatten(),
    )?;
    ensure!(found[1]["read"] == json!(["adbeef"]), "{}", found[1]);
    ensure!(found[2]["read"] == json!(["de", "beef"]), "{}", found[2]);
    Ok(())
}

#[test]
fn plain_messages() -> Result<()> {
    if skips("plain_messages")? {
        return Ok(());
    }
    messages(uml)
}

#[test]
fn guest_under_qemu() -> Result<()> {
    if skips("guest_under_qemu")? {
        return Ok(());
    }
    messages(qemu)
}

/// The driver ties the messages of a transfer together by `FAIL_NEXT`.
#[test]
fn transfer_of_the_most_messages_is_one() -> Result<()> {
    if skips("transfer_of_the_most_messages_is_one")? {
        return Ok(());
    }
    let many = |word: &str, gap: &str| vec![word; 42].join(gap);
    let steps = [
        vec![forget()],
        transfer(&many("51r1", "+")).to_vec(),
        vec![Step::expect(LOG, &many("51r1", " "))],
    ];
    play(
        uml,
        Adapter::Lab(""),
        &["--bus", "0"],
        steps.into_iter().flatten(),
    )
    .map(drop)
}

#[test]
fn address_that_is_not_allowed_never_reaches_the_bus() -> Result<()> {
    if skips("address_that_is_not_allowed_never_reaches_the_bus")? {
        return Ok(());
    }
    let steps = [
        vec![forget()],
        refused("52w00").to_vec(),
        // Nor does the rest of a transfer.
        refused("51w00+52r1").to_vec(),
        transfer("51r1").to_vec(),
        vec![Step::expect(LOG, "51r1")],
    ];
    play(
        uml,
        Adapter::Lab(""),
        &["--bus", "lab_i2c:0x51"],
        steps.into_iter().flatten(),
    )
    .map(drop)
}

#[test]
fn device_that_is_slow_fails_in_time_and_the_bus_lives_on() -> Result<()> {
    if skips("device_that_is_slow_fails_in_time_and_the_bus_lives_on")? {
        return Ok(());
    }
    let steps = [
        vec![forget()],
        // The transfer of the host goes on for ten seconds.
        refused("52r1").to_vec(),
        vec![Step::expect(LOG, ""), Step::contains(LOG, "52r1")],
        transfer("51r1").to_vec(),
        vec![Step::expect(LOG, "52r1\n51r1")],
    ];
    let args = ["--bus", "lab_i2c", "--timeout", "500"];
    play(
        uml,
        Adapter::Lab("slow_ms=10000"),
        &args,
        steps.into_iter().flatten(),
    )
    .map(drop)
}

#[test]
fn device_that_is_slow_but_not_too_slow_is_waited_for() -> Result<()> {
    if skips("device_that_is_slow_but_not_too_slow_is_waited_for")? {
        return Ok(());
    }
    let args = ["--bus", "lab_i2c", "--timeout", "20000"];
    let found = play(uml, Adapter::Lab("slow_ms=1500"), &args, transfer("52w00+52r2"))?;
    ensure!(found[0]["read"] == json!(["0000"]), "{}", found[0]);
    ensure!(
        found[0]["seconds"].as_f64().is_some_and(|s| s >= 1.5),
        "{}",
        found[0]
    );
    Ok(())
}

/// The adapter goes while the guest uses it, and comes back.
#[test]
fn adapter_that_goes_under_load_is_an_error_until_it_is_back() -> Result<()> {
    if skips("adapter_that_goes_under_load_is_an_error_until_it_is_back")? {
        return Ok(());
    }
    let (unbind, bind) = (format!("{DRIVER}/unbind"), format!("{DRIVER}/bind"));
    let steps = [
        vec![
            Step::say("i2c,do=load,m=51w00+51r4,seconds=6"),
            Step::event("loading"),
            // That waits until nobody has it open.
            Step::write(&unbind, "lab_i2c"),
            Step::result("i2c"),
            Step::says("the adapter was removed"),
            Step::idle(),
        ],
        refused("51r1").to_vec(),
        vec![Step::write(&bind, "lab_i2c")],
        transfer("51r1").to_vec(),
        // An adapter goes as well when nobody uses it, and then its module.
        vec![Step::write(&unbind, "lab_i2c"), Step::remove("lab_i2c")],
        refused("51r1").to_vec(),
    ];
    let found = play(
        uml,
        Adapter::Lab(""),
        // A confined daemon may not look for it in /dev again.
        &["--bus", "lab_i2c", "--sandbox", "none"],
        steps.into_iter().flatten(),
    )?;
    let load = &found[1];
    let count = |name: &str| load[name].as_u64().unwrap_or_default();
    ensure!(count("well") > 0 && count("failed") > 0, "{load}");
    Ok(())
}

#[test]
fn smbus_commands() -> Result<()> {
    if skips("smbus_commands")? {
        return Ok(());
    }
    let steps = [
        task("i2c,do=smbus,at=50").to_vec(),
        // The host finds in the chip what the guest wrote.
        vec![Step::script(
            "i2cget -y 0 0x50 0x10 b; i2cget -y 0 0x50 0x20 w; i2cget -y 0 0x50 0x32 b",
        )],
        refused("51w00").to_vec(),
        // That is no SMBus command.
        refused("50w00+50w01+50r1").to_vec(),
        task("i2c,do=smbus,at=50").to_vec(),
    ];
    let found = play(
        uml,
        Adapter::Stub,
        &["--bus", "SMBus stub driver"],
        steps.into_iter().flatten(),
    )?;
    for smbus in [&found[0], &found[4]] {
        ensure!(smbus["byte"] == 0x42 && smbus["byte_data"] == 0x42, "{smbus}");
        ensure!(smbus["word_data"] == 0xbeef, "{smbus}");
        ensure!(smbus["block"] == json!([1, 2, 3, 4, 5]), "{smbus}");
    }
    ensure!(found[1] == "0x42\n0xbeef\n0x03\n", "{}", found[1]);
    Ok(())
}

/// The guest's kernel has drivers for the chips behind the adapter.
#[test]
fn drivers_of_chips_bind_over_smbus() -> Result<()> {
    if skips("drivers_of_chips_bind_over_smbus")? {
        return Ok(());
    }
    // 23.5 degrees; the high byte goes first.
    let before = [Step::script("i2cset -y 0 0x48 0 0x8017 w")];
    let steps = [
        task("i2c,do=chip,at=50,driver=24c02,write=c0ffee"),
        task("i2c,do=chip,at=48,driver=lm75,file=hwmon/*/temp1_input"),
    ];
    let found = play_with(
        uml,
        Adapter::Stub,
        &before,
        &["--bus", "0"],
        steps.into_iter().flatten(),
    )?;
    let shown = found[0]["hex"].as_str().unwrap_or_default();
    ensure!(shown.starts_with("c0ffee00"), "{}", found[0]);
    ensure!(found[1]["text"] == "23500", "{}", found[1]);
    Ok(())
}

#[test]
fn chip_that_a_driver_of_the_host_has_is_not_given_to_the_guest() -> Result<()> {
    if skips("chip_that_a_driver_of_the_host_has_is_not_given_to_the_guest")? {
        return Ok(());
    }
    let before = [Step::write("/sys/bus/i2c/devices/i2c-0/new_device", "24c02 0x51")];
    let steps = refused("51r1").into_iter().chain([Step::says("driver at24")]);
    play_with(
        uml,
        Adapter::Lab(""),
        &before,
        &["--bus", "lab_i2c"],
        steps.chain(transfer("52r1")),
    )
    .map(drop)
}
