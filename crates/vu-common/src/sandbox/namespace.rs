// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Namespaces of our own, and a root folder that has only what [`Needs`] names.
//!
//! As root this takes no user namespace; else the kernel must let us have one.

// UNSAFETY: unshare(2) can take descriptors from other threads; there are none, and we keep the table.
#![allow(unsafe_code, reason = "unshare(2)")]

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change,
    mount_move, mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, chroot, getegid, geteuid, pivot_root};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::needs::Needs;

/// Folders that nearly every system has: the new root starts its life on one of them.
const PLACES: [&str; 7] = ["/proc", "/dev", "/sys", "/run", "/tmp", "/var", "/usr"];
/// Room for the folders of a few paths, and no more.
const ROOM: &CStr = c"mode=0755,size=64k,nr_inodes=128";
const FLAGS: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// How the namespaces were made.
pub(super) enum Made {
    /// With the privilege that we had.
    Plain,
    /// Within a user namespace.
    ByUser,
}

/// Moves this process into namespaces of its own, and all that it will see of files into an empty root.
///
/// # Errors
/// What the kernel refused, and what was tried. The process is then as it was, or has some of the namespaces.
pub(super) fn enter(needs: &Needs) -> Result<Made, (&'static str, io::Error)> {
    let step = |what| move |error: Errno| (what, io::Error::from(error));
    if thread_count().is_some_and(|count| count > 1) {
        return Err(("count threads", io::Error::other("there are several")));
    }
    let made = unshare(needs)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(step("make mounts private"))?;
    // The new root will hide some of them: this is the time to look.
    let mut kept: Vec<(PathBuf, bool, OwnedFd)> = Vec::new();
    for (path, _) in &needs.paths {
        // Below one that is there already it would hide it.
        if kept.iter().any(|(other, ..)| path.starts_with(other)) {
            continue;
        }
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        match open_tree(CWD, path, flags) {
            Ok(tree) => kept.push((path.clone(), path.is_dir(), tree)),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(step("clone a mount")(error)),
        }
    }
    let place = PLACES.into_iter().find(|place| Path::new(place).is_dir());
    let place = place.ok_or(("find a folder", io::ErrorKind::NotFound.into()))?;
    mount("vhost-device", place, "tmpfs", FLAGS, ROOM).map_err(step("mount a root"))?;
    for (path, is_dir, tree) in &kept {
        let inside = Path::new(place).join(path.strip_prefix("/").unwrap_or(path));
        mount_point(*is_dir, &inside).map_err(|error| ("make a place in the root", error))?;
        move_mount(tree, "", CWD, &inside, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(step("keep a folder"))?;
    }
    mount_remount(place, FLAGS | MountFlags::RDONLY, ROOM).map_err(step("make the root read-only"))?;
    change_root(place).map_err(step("change the root"))?;
    Ok(made)
}

/// Makes `inside` a folder, or a file.
fn mount_point(is_dir: bool, inside: &Path) -> io::Result<()> {
    if is_dir {
        return fs::create_dir_all(inside);
    }
    fs::create_dir_all(inside.parent().unwrap_or(inside))?;
    fs::File::create(inside).map(drop)
}

fn unshare(needs: &Needs) -> Result<Made, (&'static str, io::Error)> {
    let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    if !needs.host_network {
        flags |= UnshareFlags::NEWNET;
    }
    // SAFETY: threads that share a table of descriptors go on sharing it, as `FILES` is not among the flags.
    let leave = |flags| unsafe { unshare_unsafe(flags) };
    if leave(flags).is_ok() {
        return Ok(Made::Plain);
    }
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    leave(flags | UnshareFlags::NEWUSER).map_err(|error| ("make namespaces", error.into()))?;
    let map = |file: &str, text: String| fs::write(format!("/proc/self/{file}"), text);
    map("setgroups", "deny".into())
        .and_then(|()| map("gid_map", format!("{group} {group} 1")))
        .and_then(|()| map("uid_map", format!("{user} {user} 1")))
        .map_err(|error| ("map the user", error))?;
    Ok(Made::ByUser)
}

fn change_root(place: &str) -> rustix::io::Result<()> {
    chdir(place)?;
    // The old root lands on top of the new one, and goes.
    match pivot_root(".", ".") {
        Ok(()) => unmount(".", UnmountFlags::DETACH)?,
        // The initial root of a kernel cannot be pivoted.
        Err(Errno::INVAL) => {
            mount_move(".", "/")?;
            chroot(".")?;
        }
        Err(error) => return Err(error),
    }
    chdir("/")
}

/// The threads of this process, where that can be seen.
fn thread_count() -> Option<usize> {
    Some(fs::read_dir("/proc/self/task").ok()?.count())
}
