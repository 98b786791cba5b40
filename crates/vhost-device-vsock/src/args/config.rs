// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `--config`: guests from a TOML file, whose keys are those of `--vm`.
//!
//! ```toml
//! [[vm]]
//! guest-cid = 3
//! uds-path = "/run/vm/a.vsock"
//! socket-path = "/run/vm/a.sock"
//! groups = ["web", "db"]
//! ```

use std::fs;

use anyhow::{Context, Result, anyhow, bail, ensure};
use toml::{Table, Value};

use super::{Config, Vm};

/// The guests of the file, in its order.
///
/// # Errors
/// What is wrong in it, with the number of the guest, from 1 on.
pub(super) fn read(path: &str) -> Result<Config, String> {
    let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
    parse(&text).map(Config).map_err(|e| format!("{e:#}"))
}

fn parse(text: &str) -> Result<Vec<Vm>> {
    let mut table: Table = text.parse()?;
    let vms = table.remove("vm").unwrap_or(Value::Array(Vec::new()));
    if let Some(key) = table.keys().next() {
        bail!("{key}: not a key here (known: tables [[vm]])");
    }
    let Value::Array(vms) = vms else {
        bail!("vm: not an array of tables, written [[vm]]");
    };
    ensure!(!vms.is_empty(), "no [[vm]] in it");
    let numbered = (1..).zip(vms);
    numbered
        .map(|(number, vm)| one(vm).with_context(|| format!("[[vm]] number {number}")))
        .collect()
}

fn one(vm: Value) -> Result<Vm> {
    let Value::Table(vm) = vm else {
        bail!("not a table, written [[vm]]");
    };
    let word = |(key, value): (String, Value)| {
        let value = text(&value).with_context(|| key.clone())?;
        Ok(format!("--{key}={value}"))
    };
    let words: Vec<String> = vm.into_iter().map(word).collect::<Result<_>>()?;
    Vm::of_words(words.into_iter()).map_err(|message| anyhow!(message))
}

/// A value as an option takes it; several are joined by `+`.
fn text(value: &Value) -> Result<String> {
    Ok(match value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Array(values) => {
            let texts: Vec<String> = values.iter().map(text).collect::<Result<_>>()?;
            texts.join("+")
        }
        _ => bail!("neither a text, a number nor an array of them"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::vm;
    use super::parse;

    #[test]
    fn tables_are_what_the_option_says() {
        let file = r#"
            [[vm]]
            guest-cid = 3
            uds-path = "/a,b"
            groups = ["x", "y"]
            [[vm]]
            guest-cid = 4
            forward-cid = 1
            forward-listen = [80, 81]
            buffer-size = 8192
            queue-size = 128
            memory = 65536
            connections = 9
        "#;
        let options = [
            "guest-cid=3,uds-path=/a,,b,groups=x+y",
            "guest-cid=4,forward-cid=1,forward-listen=80+81,tx-buffer-size=8192,queue-size=128,memory=65536,connections=9",
        ];
        assert_eq!(parse(file).unwrap(), options.map(|text| vm(text).unwrap()));
    }

    #[test]
    fn errors_say_which_guest_and_what() {
        for (file, wanted) in [
            ("", "no [[vm]] in it"),
            ("[[vm]]\nguest-cid = 3", "[[vm]] number 1: "),
            (
                "[[vm]]\nguest-cid = 3\nuds-path = '/a'\n[[vm]]\nguest-cid = 2\nuds-path = '/b'",
                "[[vm]] number 2: ",
            ),
            ("[[vm]]\nguest-cid = 3\nuds-path = true", "uds-path: neither"),
            ("[[vm]]\nguest-cid = 3\nuds-path = '/a'\nsize = 1", "--size"),
            ("[[vms]]", "vms: not a key here"),
            ("vm = 3", "vm: not an array"),
            ("[[vm", "TOML parse error"),
        ] {
            let error = format!("{:#}", parse(file).unwrap_err());
            assert!(error.contains(wanted), "{file:?}: {error}");
        }
    }
}
