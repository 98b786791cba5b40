// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the guest tells the world outside: one JSON object per line on the console.

use serde_json::{Map, Value};
use std::io::Write;

/// Writes `{"event":NAME, ...fields}` as one line.
///
/// The line starts with a line feed of its own, so that a kernel message cut off in the middle does not spoil it.
pub(crate) fn event(name: &str, fields: Value) {
    let mut line = Map::new();
    line.insert("event".into(), name.into());
    if let Value::Object(fields) = fields {
        line.extend(fields);
    }
    let text = format!("\n{}\n", Value::Object(line));
    let mut out = std::io::stdout().lock();
    // There is nobody to tell when the console is gone.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Reports the end of the task `line`: what it found, or why it failed.
pub(crate) fn result(line: &str, outcome: &anyhow::Result<Value>) {
    let mut fields = Map::from_iter([
        (
            "task".to_owned(),
            line.split(',').next().unwrap_or_default().into(),
        ),
        ("ok".to_owned(), outcome.is_ok().into()),
    ]);
    match outcome {
        Ok(Value::Object(found)) => fields.extend(found.clone()),
        Ok(_) => {}
        Err(error) => {
            fields.insert("error".into(), format!("{error:#}").into());
        }
    }
    event("result", Value::Object(fields));
}
