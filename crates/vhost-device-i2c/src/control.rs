// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What somebody at the control socket does on a simulated bus, as a second host would.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use vu_common::CommandRequest;

use crate::backend::{Address, Bus, Direction, Message};

/// Most bytes either way.
const MAX_BYTES: usize = 8192;

/// One transfer: writes the bytes `write`, in hexadecimal, if they are given, and then reads `read` bytes, if that is given.
///
/// # Errors
/// What is wrong with the request, or that the device does not acknowledge.
pub(crate) fn transfer(bus: &mut dyn Bus, request: CommandRequest<'_>) -> Result<Value> {
    let address: Address = request.text("address")?.parse()?;
    let mut messages = Vec::new();
    if request.has("write") {
        messages.push(Message {
            address,
            direction: Direction::Write,
            data: bytes(&request.text("write")?)?,
        });
    }
    if request.has("read") {
        let text = request.text("read")?;
        let count: usize = text.parse().with_context(|| format!("\"read\": {text}"))?;
        ensure!(count <= MAX_BYTES, "\"read\": at most {MAX_BYTES} bytes");
        messages.push(Message {
            address,
            direction: Direction::Read,
            data: vec![0; count],
        });
    }
    ensure!(
        !messages.is_empty(),
        "neither \"write\" nor \"read\" in the request"
    );
    bus.transfer(&mut messages).map_err(|failure| failure.error)?;
    let read = messages
        .iter()
        .filter(|message| message.direction == Direction::Read);
    let hex: String = read
        .flat_map(|message| &message.data)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(if request.has("read") {
        json!(hex)
    } else {
        Value::Null
    })
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    let digits: Option<Vec<u32>> = hex.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2) && digits.len() <= 2 * MAX_BYTES);
    let digits =
        digits.with_context(|| format!("\"write\": {hex} is not bytes of two hexadecimal digits each"))?;
    // Two digits are a byte.
    Ok(digits
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit) as u8)
        .collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use vu_common::CommandRequest;

    use super::transfer;
    use crate::backend::sim;

    #[test]
    fn another_host_writes_and_reads() {
        let mut bus = sim::open("24c02@0x50").unwrap();
        let mut ask = |fields: Value| {
            transfer(&mut *bus, CommandRequest::new(&fields)).map_err(|error| error.to_string())
        };
        assert_eq!(ask(json!({"address": 0x50, "write": "10a5Ff"})), Ok(Value::Null));
        assert_eq!(
            ask(json!({"address": "0x50", "write": 10, "read": 2})),
            Ok(json!("a5ff"))
        );
        for (fields, error) in [
            (json!({"address": 0x51, "read": 1}), "sim: 0x51: nothing answers"),
            (
                json!({"address": "0x50"}),
                "neither \"write\" nor \"read\" in the request",
            ),
            (
                json!({"address": 0x50, "read": 8193}),
                "\"read\": at most 8192 bytes",
            ),
            (
                json!({"address": 0x50, "write": "abc"}),
                "\"write\": abc is not bytes of two hexadecimal digits each",
            ),
        ] {
            assert_eq!(ask(fields), Err(error.to_owned()));
        }
    }
}
