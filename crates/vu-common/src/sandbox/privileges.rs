// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! No new privileges, no capabilities, no core dumps.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// No program that we could start would get more than we have.
pub(super) fn no_new() -> io::Result<()> {
    Ok(set_no_new_privs(true)?)
}

/// No memory of a guest in a core dump, and as many descriptors as we may have. The rings of `io_uring` are locked memory, which
/// is not limited for a privileged process: it is not to be so once it has no privilege any more.
pub(super) fn limit() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    let files = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: files.maximum,
        ..files
    };
    setrlimit(Resource::Nofile, most)?;
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    let locked = getrlimit(Resource::Memlock).maximum;
    let own = Rlimit {
        current: locked,
        maximum: locked,
    };
    Ok(setrlimit(Resource::Memlock, unlimited).or_else(|_| setrlimit(Resource::Memlock, own))?)
}

/// Gives up every capability for good.
pub(super) fn drop_all() -> io::Result<()> {
    let now = capabilities(None)?;
    clear_ambient_capability_set()?;
    if now.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all() {
            match remove_capability_from_bounding_set(capability) {
                // One that this kernel does not know.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    let none = CapabilitySet::empty();
    Ok(set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )?)
}
