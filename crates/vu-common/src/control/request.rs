// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! [`CommandRequest`]: what somebody at the control socket says beside the name of a command.

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The fields of a request for one of the device's own commands. None has been checked.
#[derive(Clone, Copy, Debug)]
pub struct CommandRequest<'a>(&'a Value);

impl<'a> CommandRequest<'a> {
    /// A request with the fields of this object.
    pub fn new(fields: &'a Value) -> Self {
        Self(fields)
    }

    fn field(self, key: &str) -> Result<&'a Value> {
        self.0
            .get(key)
            .with_context(|| format!("no \"{key}\" in the request"))
    }

    /// Whether there is such a field.
    pub fn has(self, key: &str) -> bool {
        self.0.get(key).is_some()
    }

    /// A text; a number stands for its digits.
    ///
    /// # Errors
    /// There is none.
    pub fn text(self, key: &str) -> Result<String> {
        match self.field(key)? {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            other => bail!("\"{key}\": {other} is not a text"),
        }
    }

    /// True or 1, false or 0.
    ///
    /// # Errors
    /// It is neither, or not there.
    pub fn flag(self, key: &str) -> Result<bool> {
        let value = self.field(key)?;
        match (value.as_bool(), value.as_u64()) {
            (Some(flag), _) => Ok(flag),
            (None, Some(number @ (0 | 1))) => Ok(number == 1),
            _ => bail!("\"{key}\": {value} is neither 0 nor 1"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::CommandRequest;

    #[test]
    fn fields_are_what_people_mean() {
        let fields = json!({"line": 3, "name": "LED", "on": 1, "off": false, "odd": [1], "many": 2});
        let request = CommandRequest::new(&fields);
        assert_eq!(request.text("line").unwrap(), "3");
        assert_eq!(request.text("name").unwrap(), "LED");
        assert!(request.has("odd") && !request.has("even"));
        assert!(request.flag("on").unwrap() && !request.flag("off").unwrap());
        for (error, text) in [
            (request.text("odd").unwrap_err(), "\"odd\": [1] is not a text"),
            (
                request.flag("many").unwrap_err(),
                "\"many\": 2 is neither 0 nor 1",
            ),
            (request.text("none").unwrap_err(), "no \"none\" in the request"),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }
}
