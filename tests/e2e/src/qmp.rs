// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! QMP, QEMU's machine protocol: steers a running machine, and moves it to another QEMU.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long QEMU may take to answer, or to be there.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
    /// Events that came while something else was waited for.
    events: VecDeque<Value>,
}

impl Qmp {
    /// Connects to a QEMU that is running or about to.
    ///
    /// # Errors
    /// When nothing answers as QEMU does.
    pub fn connect(socket: &Path) -> Result<Self> {
        let end = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => return Err(error).with_context(|| socket.display().to_string()),
            }
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut qmp = Self {
            stream: BufReader::new(stream),
            events: VecDeque::new(),
        };
        qmp.read()?;
        qmp.execute("qmp_capabilities")?;
        Ok(qmp)
    }

    /// Executes a command without arguments: `system_reset`, `system_powerdown`, `quit`, ...
    ///
    /// # Errors
    /// When QEMU refuses it or is gone.
    pub fn execute(&mut self, command: &str) -> Result<Value> {
        self.execute_with(command, &json!({}))
    }

    /// Executes a command.
    ///
    /// # Errors
    /// When QEMU refuses it or is gone.
    pub fn execute_with(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        // At once: after a `quit` there is nobody to take the end of the line.
        let line = format!("{request}\n");
        let mut stream = self.stream.get_ref();
        stream
            .write_all(line.as_bytes())
            .with_context(|| format!("QMP {command}"))?;
        loop {
            let mut answer = self.read().with_context(|| format!("QMP {command}"))?;
            if answer.get("error").is_some() {
                bail!("QMP {command}: {}", answer["error"]["desc"]);
            }
            if answer.get("return").is_some() {
                return Ok(answer["return"].take());
            }
            self.events.push_back(answer);
        }
    }

    /// Waits for the next event `name`.
    ///
    /// # Errors
    /// When it does not come, or QEMU is gone.
    pub fn event(&mut self, name: &str) -> Result<Value> {
        loop {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => self.read().with_context(|| format!("QMP event {name}"))?,
            };
            if event["event"] == name {
                return Ok(event);
            }
        }
    }

    /// Plugs `size` bytes of memory in, which is called `name`.
    ///
    /// # Errors
    /// When the machine has no room for it.
    pub fn plug_memory(&mut self, name: &str, size: u64) -> Result<()> {
        let memory = json!({ "qom-type": "memory-backend-memfd", "id": name, "size": size, "share": true });
        self.execute_with("object-add", &memory)?;
        let module = json!({ "driver": "pc-dimm", "id": format!("{name}-dimm"), "memdev": name });
        self.execute_with("device_add", &module).map(drop)
    }

    /// Moves the machine to the QEMU that waits at `socket`, while it runs, and ends this one.
    ///
    /// # Errors
    /// When the migration fails, in QEMU's words.
    pub fn migrate(mut self, socket: &Path) -> Result<()> {
        let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
        self.execute_with("migrate-set-capabilities", &events)?;
        // Guests dirty memory fast, and nothing here is short of bandwidth.
        self.execute_with(
            "migrate-set-parameters",
            &json!({ "max-bandwidth": 0, "downtime-limit": 1000 }),
        )?;
        self.execute_with("migrate", &json!({ "uri": format!("unix:{}", socket.display()) }))?;
        loop {
            let event = self.event("MIGRATION")?;
            match event["data"]["status"].as_str().unwrap_or_default() {
                "completed" => break,
                "failed" | "cancelled" => {
                    let state = self.execute("query-migrate")?;
                    bail!("the migration failed: {}", state["error-desc"]);
                }
                _ => {}
            }
        }
        self.execute("quit").map(drop)
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.stream.read_line(&mut line).context("QMP")?;
        ensure!(!line.is_empty(), "QEMU has closed the connection");
        serde_json::from_str(&line).with_context(|| format!("QMP: {line:?}"))
    }
}
