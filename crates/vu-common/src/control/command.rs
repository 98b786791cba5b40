// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the commands do.

use std::sync::{Arc, MutexGuard, TryLockError};
use std::time::Instant;

use log::LevelFilter;
use serde_json::{Value, json};

use super::server::Answers;
use super::{CommandRequest, Served};
use crate::about::Command;
use crate::counters::Counters;
use crate::device::Device;
use crate::session::Session;
use crate::shutdown::Shutdown;
use crate::{notify, sandbox};

/// Version of requests and replies; what is added to them does not change it.
const API: u32 = 1;
/// What every daemon can be told.
const COMMON: [Command; 7] = [
    Command {
        name: "commands",
        arguments: "",
        help: "List what the daemon can be told",
    },
    Command {
        name: "quit",
        arguments: "",
        help: "End as by SIGTERM",
    },
    Command {
        name: "refresh",
        arguments: "",
        help: "Look at the host's side again, as SIGHUP does",
    },
    Command {
        name: "set-log-level",
        arguments: "level=error|warn|info|debug|trace",
        help: "Log what is at least this grave",
    },
    Command {
        name: "stats",
        arguments: "",
        help: "What the daemon has done since it started",
    },
    Command {
        name: "status",
        arguments: "",
        help: "What the daemon is, and who is connected to it",
    },
    Command {
        name: "version",
        arguments: "",
        help: "The daemon's version, and that of requests and replies",
    },
];

pub(super) struct Commands<D: Device> {
    /// The device's own.
    own: &'static [Command],
    served: Vec<Served<D>>,
    shutdown: Arc<Shutdown>,
    since: Instant,
}

impl<D: Device> Answers for Commands<D> {
    fn answer(&self, request: &str) -> String {
        let reply = match self.carry_out(request) {
            Ok(result) => json!({"api": API, "ok": true, "result": result}),
            Err(error) => json!({"api": API, "ok": false, "error": error}),
        };
        reply.to_string()
    }
}

impl<D: Device> Commands<D> {
    pub(super) fn new(own: &'static [Command], served: Vec<Served<D>>, shutdown: Arc<Shutdown>) -> Self {
        Self {
            own,
            served,
            shutdown,
            since: Instant::now(),
        }
    }

    fn carry_out(&self, request: &str) -> Result<Value, String> {
        let request: Value = serde_json::from_str(request).map_err(|error| format!("not JSON: {error}"))?;
        let text = |key: &str| request.get(key).and_then(Value::as_str);
        match text("command") {
            None => Err("no \"command\" in the request".into()),
            Some("version") => Ok(json!({"version": env!("CARGO_PKG_VERSION"), "api": API})),
            Some("status") => Ok(self.status()),
            Some("stats") => Ok(json!({"devices": self.each(Self::stats)})),
            Some("refresh") => {
                // As SIGHUP does.
                for device in self.served.iter().filter_map(|served| served.device.upgrade()) {
                    device.hang_up();
                }
                Ok(Value::Null)
            }
            Some("set-log-level") => {
                let level = text("level").ok_or("no \"level\" in the request")?;
                let level: LevelFilter = level.parse().map_err(|_unknown| {
                    format!("{level}: no such level (error, warn, info, debug, trace)")
                })?;
                log::set_max_level(level);
                Ok(Value::Null)
            }
            Some("quit") => {
                log::info!("asked to stop by the control socket");
                notify::stopping();
                self.shutdown.ask();
                Ok(Value::Null)
            }
            Some("commands") => Ok(self.all().map(Self::listed).collect()),
            Some(name) if self.own.iter().any(|own| own.name == name) => {
                let result = self.meant(&request)?.command(name, CommandRequest::new(&request));
                result.map_err(|error| format!("{error:#}"))
            }
            Some(other) => {
                let known: Vec<_> = self.all().map(|command| command.name).collect();
                Err(format!("{other}: no such command (known: {})", known.join(", ")))
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = &'static Command> {
        COMMON.iter().chain(self.own)
    }

    fn listed(command: &Command) -> Value {
        json!({"name": command.name, "arguments": command.arguments, "help": command.help})
    }

    /// The device that a request is for.
    fn meant(&self, request: &Value) -> Result<Arc<D>, String> {
        let last = self.served.len().saturating_sub(1);
        let socket = match &request["socket"] {
            Value::Null if last == 0 => 0,
            Value::Null => return Err(format!("no \"socket\" in the request (0 to {last})")),
            number => number
                .as_u64()
                .and_then(|number| usize::try_from(number).ok())
                .unwrap_or(usize::MAX),
        };
        let served = self.served.get(socket);
        let served = served.ok_or_else(|| format!("{}: no such socket (0 to {last})", request["socket"]))?;
        served
            .device
            .upgrade()
            .ok_or_else(|| "the device is served no longer".into())
    }

    fn status(&self) -> Value {
        let devices = self.each(Self::device);
        json!({
            "name": self.served.iter().find_map(|served| Some(served.device.upgrade()?.spec().name)),
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime_seconds": self.since.elapsed().as_secs(),
            "log_level": log::max_level().to_string().to_lowercase(),
            "sandbox": sandbox::report(),
            "devices": devices,
        })
    }

    /// What `tell` says of each device, in the order of the sockets; null for one that is served no longer.
    fn each(&self, tell: fn(&Served<D>) -> Value) -> Vec<Value> {
        let one = |served| {
            let served: &Served<D> = served;
            if served.device.strong_count() == 0 {
                Value::Null
            } else {
                tell(served)
            }
        };
        self.served.iter().map(one).collect()
    }

    fn device(served: &Served<D>) -> Value {
        let tell = |session: &Session<D>| {
            json!({
                "features": session.features,
                "protocol_features": session.protocol.bits(),
                "memory_regions": session.memory.len(),
                "queues": session.queues.iter().map(|queue| json!({
                    "size": queue.size(),
                    "running": queue.is_running(),
                })).collect::<Vec<_>>(),
            })
        };
        json!({
            "connections": served.slot.connections(),
            "front_end": in_session(served, tell),
        })
    }

    fn stats(served: &Served<D>) -> Value {
        let count = |q: usize, now: Counters, in_flight: usize| {
            let mut told = served.slot.past(q).plus(now).to_json();
            told["in_flight"] = in_flight.into();
            told
        };
        let tell = |session: &Session<D>| {
            let queues = session.queues.iter().enumerate();
            queues
                .map(|(q, queue)| count(q, queue.counters(), queue.in_flight()))
                .collect::<Value>()
        };
        let queues = match in_session(served, tell) {
            Value::Null => {
                let queues = served.device.upgrade().map_or(0, |device| device.spec().queues);
                (0..queues.into())
                    .map(|q| count(q, Counters::default(), 0))
                    .collect()
            }
            queues => queues,
        };
        json!({"connections": served.slot.connections(), "queues": queues})
    }
}

/// What `tell` says of the session, null without one, `"busy"` while it is being changed: a stop may take half a minute.
fn in_session<D: Device>(served: &Served<D>, tell: impl FnOnce(&Session<D>) -> Value) -> Value {
    let Some(session) = served.slot.session() else {
        return Value::Null;
    };
    let locked: MutexGuard<'_, Session<D>> = match session.try_lock() {
        Ok(locked) => locked,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return "busy".into(),
    };
    tell(&locked)
}
