// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Network block device servers that others wrote.

use crate::image::{self, Image};
use anyhow::{Result, bail, ensure};
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// QEMU's.
    QemuNbd,
    /// nbdkit with its file plugin.
    Nbdkit,
}

/// A running server of one raw image. Killed when dropped.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    child: Child,
    socket: PathBuf,
    image: Image,
}

impl Server {
    /// Starts one that listens at `socket`.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn start(kind: Kind, image: &Image, socket: &Path) -> Result<Self> {
        Ok(Self {
            kind,
            child: spawn(kind, image, socket)?,
            socket: socket.to_owned(),
            image: image.clone(),
        })
    }

    /// The address for clients.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    /// Kills it without warning.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{:?} has ended before: {status}", self.kind);
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again where it was.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn restart(&mut self) -> Result<()> {
        std::fs::remove_file(&self.socket)?;
        self.child = spawn(self.kind, &self.image, &self.socket)?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a server and waits until it listens.
fn spawn(kind: Kind, image: &Image, socket: &Path) -> Result<Child> {
    let mut command = match kind {
        Kind::QemuNbd => {
            let mut command = image::server("qemu-nbd")?;
            command.args([
                "--persistent",
                "--shared=0",
                "--format=raw",
                "--discard=unmap",
                "--socket",
            ]);
            command.arg(socket).arg(image.path());
            command
        }
        Kind::Nbdkit => {
            let mut command = image::server("nbdkit")?;
            command.args(["--foreground", "--unix"]).arg(socket);
            command.arg("file").arg(image.path());
            command
        }
    };
    // It complains of each client that we kill, and of us, who only knock.
    let log = File::options()
        .create(true)
        .append(true)
        .open(socket.with_extension("log"))?;
    let mut child = command.stdin(Stdio::null()).stderr(log).spawn()?;
    let end = Instant::now() + PATIENCE;
    while UnixStream::connect(socket).is_err() {
        if let Some(status) = child.try_wait()? {
            bail!(
                "{kind:?} ended at once: {status}; its log lies beside {}",
                socket.display()
            );
        }
        if Instant::now() >= end {
            let _ = child.kill();
            let _ = child.wait();
        }
        ensure!(
            Instant::now() < end,
            "{kind:?} does not listen after {} s",
            PATIENCE.as_secs()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(child)
}
