// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! virtio-rng: reads the kernel's hardware random number source.
//!
//! Options: `bytes=N` to read (1 MiB), `hex=N` of them to show (32).

use crate::task::Options;
use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

const FOLDER: &str = "/sys/class/misc/hw_random";
const NODE: &str = "/dev/hwrng";

/// The longest that the driver may take to find its device.
const PROBE: Duration = Duration::from_secs(20);

/// Reads the source; gives its name, the first bytes, the chi-square of all and the throughput.
pub(crate) fn run(options: &Options) -> anyhow::Result<Value> {
    let bytes: usize = options.get("bytes", 1 << 20)?;
    let shown: usize = options.get("hex", 32)?;
    let current = wait_for_source()?;
    let start = Instant::now();
    let mut data = vec![0; bytes];
    read_exact(&mut data)?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(json!({
        "current": current,
        "available": attribute("rng_available")?,
        "bytes": bytes,
        "chi_square": chi_square(&data),
        "hex": hex(&data[..shown.min(bytes)]),
        "seconds": seconds,
    }))
}

/// The current source, as soon as there is one.
fn wait_for_source() -> anyhow::Result<String> {
    let end = Instant::now() + PROBE;
    loop {
        let current = attribute("rng_current")?;
        if current != "none" && !current.is_empty() {
            return Ok(current);
        }
        if Instant::now() > end {
            bail!(
                "no source after {} s (available: {:?})",
                PROBE.as_secs(),
                attribute("rng_available")?
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn attribute(name: &str) -> anyhow::Result<String> {
    let path = format!("{FOLDER}/{name}");
    Ok(std::fs::read_to_string(&path).context(path)?.trim().to_owned())
}

fn read_exact(data: &mut [u8]) -> anyhow::Result<()> {
    let mut source = File::open(NODE).context(NODE)?;
    let mut done = 0;
    while done < data.len() {
        match source
            .read(&mut data[done..])
            .with_context(|| format!("{NODE} after {done} bytes"))?
        {
            0 => bail!("{NODE} ended after {done} bytes"),
            n => done += n,
        }
    }
    Ok(())
}

/// Pearson's statistic of the byte counts against the even distribution: 255 degrees of freedom, so about 255 +- 23
/// for random bytes.
fn chi_square(data: &[u8]) -> f64 {
    let mut counts = [0u32; 256];
    for byte in data {
        counts[usize::from(*byte)] += 1;
    }
    let expected = data.len() as f64 / 256.0;
    counts
        .iter()
        .map(|count| (f64::from(*count) - expected).powi(2) / expected)
        .sum()
}

fn hex(data: &[u8]) -> String {
    data.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::{chi_square, hex};

    #[test]
    fn chi_square_is_zero_for_even_counts_and_large_for_a_constant() {
        let even: Vec<u8> = (0..=255).cycle().take(2560).collect();
        assert_eq!(chi_square(&even), 0.0);
        assert_eq!(chi_square(&[7; 2560]), 2550.0 * 255.0 + 255.0 * 10.0);
    }

    #[test]
    fn hex_keeps_leading_zeros() {
        assert_eq!(hex(&[0, 1, 0xff]), "0001ff");
    }
}
