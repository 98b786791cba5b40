// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Landlock: no file can be opened, made or removed, except below the folders of [`Needs`]; no TCP, no abstract
//! sockets of others, no signals to them. What a kernel does not know of it is left out.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::needs::{Access, Needs};

fn rights(access: Access) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    match access {
        Access::Remove => AccessFs::RemoveFile.into(),
        Access::Read => read,
        Access::ReadWrite => read | AccessFs::WriteFile | AccessFs::IoctlDev | AccessFs::RemoveFile,
    }
}

/// Restricts this thread and those that it starts. True if the kernel knew all of it.
pub(super) fn restrict(needs: &Needs) -> Result<RulesetStatus, RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V6))?;
    if !needs.host_network {
        ruleset = ruleset.handle_access(AccessNet::from_all(ABI::V6))?;
    }
    let mut ruleset = ruleset
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?;
    for (path, access) in &needs.paths {
        if let Ok(folder) = PathFd::new(path) {
            ruleset = ruleset.add_rule(PathBeneath::new(folder, rights(*access)))?;
        }
    }
    Ok(ruleset.restrict_self()?.ruleset)
}
