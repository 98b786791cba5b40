// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Landlock: no file can be opened, made or removed, except below the folders of [`Needs`]; no TCP, no abstract
//! sockets of others, no signals to them. What a kernel does not know of it is left out.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::needs::{Access, Needs};

fn rights(access: Access) -> BitFlags<AccessFs> {
    let open = AccessFs::ReadFile | AccessFs::ReadDir;
    match access {
        // Landlock does not keep from it.
        Access::Connect => BitFlags::empty(),
        Access::Remove => AccessFs::RemoveFile.into(),
        Access::Read => open,
        Access::ReadWrite => open | AccessFs::WriteFile | AccessFs::IoctlDev,
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
        let mut rights = rights(*access);
        if !path.is_dir() {
            rights &= AccessFs::from_file(ABI::V6);
        }
        if let Ok(folder) = PathFd::new(path)
            && !rights.is_empty()
        {
            ruleset = ruleset.add_rule(PathBeneath::new(folder, rights))?;
        }
    }
    Ok(ruleset.restrict_self()?.ruleset)
}
