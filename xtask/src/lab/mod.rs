// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask lab`: builds what test guests are made of, once, in a cache folder outside the work tree.
//!
//! The building itself is in `vu_e2e::artifacts`, so that tests that are run alone find it, too.

use std::time::Instant;

use anyhow::Result;
use vu_e2e::artifacts::{Lab, Part};

/// Builds the parts of the lab that are missing.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these parts: qemu, guest, debian-kernel, accel, source, um, x86
    parts: Vec<Part>,
    /// Forget the named parts (or all) first, and make them anew from the newest packages
    #[arg(long)]
    fresh: bool,
    /// Remove the cache folder with all that is in it
    #[arg(long, conflicts_with_all = ["parts", "fresh"])]
    clean: bool,
    /// Print what each part was made from, and build nothing
    #[arg(long, conflicts_with_all = ["parts", "fresh", "clean"])]
    manifest: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let lab = Lab::open()?;
    if args.clean {
        return lab.clean();
    }
    if args.manifest {
        print!("{}", lab.manifest()?);
        return Ok(());
    }
    let parts = if args.parts.is_empty() {
        Part::ALL.to_vec()
    } else {
        args.parts
    };
    if args.fresh {
        parts.iter().try_for_each(|part| lab.forget(*part))?;
    }
    let start = Instant::now();
    for part in parts {
        match part {
            Part::Accel => println!("{part}: {}", lab.accel()?),
            _ => println!("{part}: {}", lab.build(part)?.display()),
        }
    }
    eprintln!(
        "lab: ready after {:.1} s in {}",
        start.elapsed().as_secs_f32(),
        lab.folder().display()
    );
    Ok(())
}
