// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Binds a socket at a path and removes it again: nobody reaches it before it has its mode and group, and
//! what belongs to someone else is neither replaced nor removed.

use std::ffi::{OsStr, OsString};
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::rand::GetRandomFlags;

use crate::error::SetupError;
use crate::sandbox::Needs;

/// Longest path of a Unix socket: `sun_path` less the final zero.
const MAX_PATH: usize = 107;
/// Connections that may wait for us to accept them.
const BACKLOG: i32 = 128;

/// A socket of the daemon beside those for front ends: it listens at `path` for its owner only, until what comes with it
/// is dropped. To be called before the daemon is confined, as from the `open` of [`main`](crate::main()).
///
/// A socket that nobody holds any more is replaced; what belongs to others is neither replaced nor removed.
///
/// # Errors
/// Somebody listens there, something else lies there, or what the host refused.
pub fn listen(path: &Path) -> Result<(UnixListener, SocketPath), SetupError> {
    let (socket, entry) = bind(path, Mode::RUSR | Mode::WUSR, None)?;
    Needs::default().removes(path).declare();
    Ok((socket.into(), entry))
}

/// A socket that listens at `path`, with the entry that removes the path when it is dropped.
///
/// It is bound under a temporary name in the same folder and renamed when all is set.
///
/// # Errors
/// [`SetupError::InUse`] and [`SetupError::NotASocket`] for what may not be replaced, else what failed.
pub(crate) fn bind(path: &Path, mode: Mode, group: Option<Gid>) -> Result<(OwnedFd, SocketPath), SetupError> {
    let (parent, file) = split(path)?;
    let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(parent, open, Mode::empty()).map_err(failed(path, "open its folder"))?;
    let socket = unix_socket(SocketType::STREAM).map_err(failed(path, "make a socket"))?;

    let temporary = temporary_name(file).map_err(failed(path, "choose a temporary name"))?;
    // The longer name may not fit where `path` does; the second address is short.
    let address = SocketAddrUnix::new(parent.join(&temporary))
        .or_else(|_| SocketAddrUnix::new(descriptor_path(&folder).join(&temporary)))
        .map_err(failed(path, "name a temporary socket beside it"))?;
    rustix::net::bind(&socket, &address).map_err(failed(path, "bind"))?;
    let mut entry =
        SocketPath::new(folder, temporary).map_err(failed(path, "find the socket that was bound"))?;

    // Connections are refused until we listen.
    if group.is_some() {
        rustix::fs::chownat(&entry.folder, &entry.file, None, group, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed(path, "give it to the group of --socket-group"))?;
    }
    rustix::fs::chmodat(&entry.folder, &entry.file, mode, AtFlags::empty())
        .map_err(failed(path, "set its mode"))?;
    rustix::net::listen(&socket, BACKLOG).map_err(failed(path, "listen"))?;
    entry.publish(path, file)?;
    Ok((socket, entry))
}

/// The name of a socket of ours in its folder, where it is removed when this is dropped. Kept by descriptor, so that it
/// outlives a change of root.
#[derive(Debug)]
pub struct SocketPath {
    folder: OwnedFd,
    file: OsString,
    inode: Inode,
}

impl SocketPath {
    fn new(folder: OwnedFd, file: OsString) -> rustix::io::Result<Self> {
        let (inode, _) = look(&folder, &file)?;
        Ok(Self { folder, file, inode })
    }

    /// Renames our socket to `file`, where only a stale socket may lie; `path` leads to it.
    fn publish(&mut self, path: &Path, file: &OsStr) -> Result<(), SetupError> {
        loop {
            let seen = stale_socket(&self.folder, path, file)?;
            if self
                .place(file, seen)
                .map_err(failed(path, "rename the socket to it"))?
            {
                return Ok(());
            }
        }
    }

    /// Renames our socket to `file`, where nothing or a stale socket was `seen`. `false` if that is no longer
    /// so, as another daemon may do the same at the same time: then nothing has changed.
    fn place(&mut self, file: &OsStr, seen: Option<Inode>) -> rustix::io::Result<bool> {
        let Some(stale) = seen else {
            return match self.rename(file, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => Ok(false),
                result => result.map(|_| true),
            };
        };
        let temporary = match self.rename(file, RenameFlags::EXCHANGE) {
            Err(Errno::NOENT) => return Ok(false),
            result => result?,
        };
        let is_stale = look(&self.folder, &temporary)?.0 == stale;
        if is_stale {
            rustix::fs::unlinkat(&self.folder, &temporary, AtFlags::empty())?;
        } else {
            self.rename(&temporary, RenameFlags::EXCHANGE)?;
        }
        Ok(is_stale)
    }

    /// Gives our socket another name and returns the one that it had.
    fn rename(&mut self, file: &OsStr, flags: RenameFlags) -> rustix::io::Result<OsString> {
        rustix::fs::renameat_with(&self.folder, &self.file, &self.folder, file, flags)?;
        Ok(mem::replace(&mut self.file, file.into()))
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        if look(&self.folder, &self.file).is_ok_and(|(inode, _)| inode == self.inode)
            && let Err(error) = rustix::fs::unlinkat(&self.folder, &self.file, AtFlags::empty())
        {
            log::warn!("{}: cannot remove the socket: {error}", self.file.display());
        }
    }
}

/// What tells one file from another: device and inode number.
type Inode = (u64, u64);

fn look(folder: &OwnedFd, file: &OsStr) -> rustix::io::Result<(Inode, FileType)> {
    let stat = rustix::fs::statat(folder, file, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(((stat.st_dev, stat.st_ino), FileType::from_raw_mode(stat.st_mode)))
}

/// The socket at `path` if it is one that no process holds any more; an error if it may not be replaced.
fn stale_socket(folder: &OwnedFd, path: &Path, file: &OsStr) -> Result<Option<Inode>, SetupError> {
    let inode = match look(folder, file) {
        Ok((inode, FileType::Socket)) => inode,
        Ok(_) => return Err(SetupError::NotASocket { path: path.into() }),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(failed(path, "look what lies there")(errno)),
    };
    // A datagram socket cannot connect to a stream socket, so a daemon that lives there notices nothing,
    // but the kernel still tells whether one does.
    let probe = unix_socket(SocketType::DGRAM).map_err(failed(path, "make a socket"))?;
    let address = SocketAddrUnix::new(path).map_err(failed(path, "make an address of it"))?;
    match rustix::net::connect(&probe, &address) {
        Err(Errno::CONNREFUSED) => Ok(Some(inode)),
        Err(Errno::NOENT) => Ok(None),
        Ok(()) | Err(Errno::PROTOTYPE | Errno::PERM) => Err(SetupError::InUse { path: path.into() }),
        Err(errno) => Err(failed(path, "find out who listens there")(errno)),
    }
}

/// The folder and the file name of a socket's path.
fn split(path: &Path) -> Result<(&Path, &OsStr), SetupError> {
    if path.as_os_str().len() > MAX_PATH {
        return Err(SetupError::PathTooLong {
            path: path.into(),
            max: MAX_PATH,
        });
    }
    let (Some(parent), Some(file)) = (path.parent(), path.file_name()) else {
        return Err(SetupError::NoFileName { path: path.into() });
    };
    Ok((
        if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        },
        file,
    ))
}

/// `.rng.sock.1f2e3d4c` for `rng.sock`: should a crash leave it behind, one sees where it comes from.
fn temporary_name(file: &OsStr) -> rustix::io::Result<OsString> {
    let mut random = [0; 4];
    rustix::rand::getrandom(&mut random, GetRandomFlags::empty())?;
    let mut name = OsString::from(".");
    name.push(file);
    name.push(format!(".{:08x}", u32::from_ne_bytes(random)));
    Ok(name)
}

fn descriptor_path(folder: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", folder.as_raw_fd()).into()
}

fn unix_socket(kind: SocketType) -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
}

fn failed(path: &Path, what: &'static str) -> impl FnOnce(Errno) -> SetupError {
    move |errno| SetupError::Path {
        path: path.into(),
        what,
        source: errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
    use std::path::{Path, PathBuf};
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::{env, fs, process, thread};

    use rustix::fs::{Gid, Mode};

    use super::{MAX_PATH, SocketPath, bind, look};

    /// A new folder, removed when dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = env::temp_dir().join(format!("vu-socket-{}-{number}", process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn open(&self) -> OwnedFd {
            fs::File::open(&self.0).unwrap().into()
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const MODE: Mode = Mode::from_raw_mode(0o600);

    fn bind_error(path: &Path) -> String {
        bind(path, MODE, None).unwrap_err().to_string()
    }

    #[test]
    fn a_bound_socket_is_alone_in_its_folder_and_goes_with_its_owner() {
        let folder = Folder::new();
        let path = folder.0.join("rng.sock");
        let bound = bind(&path, MODE, None).unwrap();
        assert_eq!(folder.names(), ["rng.sock"]);
        UnixStream::connect(&path).unwrap();
        drop(bound);
        assert!(folder.names().is_empty());
    }

    #[test]
    fn mode_and_group_are_set_whatever_the_umask() {
        let folder = Folder::new();
        let path = folder.0.join("rng.sock");
        let group = fs::metadata(&folder.0).unwrap().gid();
        let _bound = bind(&path, Mode::from_raw_mode(0o666), Some(Gid::from_raw(group))).unwrap();
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o666);
        assert_eq!(metadata.gid(), group);
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let folder = Folder::new();
        let path = folder.0.join("rng.sock");
        drop(UnixListener::bind(&path).unwrap());
        let stale = fs::symlink_metadata(&path).unwrap().ino();
        let _bound = bind(&path, MODE, None).unwrap();
        assert_ne!(fs::symlink_metadata(&path).unwrap().ino(), stale);
        assert_eq!(folder.names(), ["rng.sock"]);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_live_listener_is_left_alone_and_notices_nothing() {
        let folder = Folder::new();
        let path = folder.0.join("rng.sock");
        let other = UnixListener::bind(&path).unwrap();
        assert_eq!(
            bind_error(&path),
            format!("{}: another process listens there", path.display())
        );
        assert_eq!(folder.names(), ["rng.sock"]);
        other.set_nonblocking(true).unwrap();
        assert_eq!(other.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_live_socket_of_another_kind_is_left_alone() {
        let folder = Folder::new();
        let path = folder.0.join("rng.sock");
        let _other = UnixDatagram::bind(&path).unwrap();
        assert!(bind_error(&path).ends_with("another process listens there"));
    }

    #[test]
    fn what_is_no_socket_is_never_replaced() {
        let folder = Folder::new();
        let [file, link, sub] = ["file", "link", "sub"].map(|name| folder.0.join(name));
        fs::write(&file, "precious").unwrap();
        symlink("elsewhere", &link).unwrap();
        fs::create_dir(&sub).unwrap();
        for path in [&file, &link, &sub] {
            let expected = format!(
                "{}: exists and is not a socket, so it is not replaced",
                path.display()
            );
            assert_eq!(bind_error(path), expected);
        }
        assert_eq!(fs::read(&file).unwrap(), b"precious");
        assert_eq!(folder.names().len(), 3);
    }

    #[test]
    fn a_socket_that_came_after_the_look_is_left_alone() {
        let folder = Folder::new();
        let (ours, theirs) = (folder.0.join("ours"), folder.0.join("theirs"));
        drop(UnixListener::bind(&ours).unwrap());
        let stale = look(&folder.open(), "ours".as_ref()).unwrap().0;
        let mut entry = SocketPath::new(folder.open(), "ours".into()).unwrap();
        let other = UnixListener::bind(&theirs).unwrap();
        let inode = fs::symlink_metadata(&theirs).unwrap().ino();
        for seen in [None, Some(stale)] {
            assert!(!entry.place("theirs".as_ref(), seen).unwrap(), "{seen:?}");
            assert_eq!(fs::symlink_metadata(&theirs).unwrap().ino(), inode, "{seen:?}");
            assert_eq!(folder.names().len(), 2, "{seen:?}");
        }
        drop(other);
        fs::remove_file(&theirs).unwrap();
        assert!(!entry.place("theirs".as_ref(), Some(stale)).unwrap());
        assert!(entry.place("theirs".as_ref(), None).unwrap());
        assert_eq!(folder.names(), ["theirs"]);
    }

    #[test]
    fn of_many_that_start_at_once_one_serves() {
        for round in 0..50 {
            let folder = Folder::new();
            let path = folder.0.join("rng.sock");
            if round % 2 == 0 {
                drop(UnixListener::bind(&path).unwrap());
            }
            let barrier = Barrier::new(4);
            let start = || {
                barrier.wait();
                bind(&path, MODE, None)
            };
            let results: Vec<_> = thread::scope(|scope| {
                let starts: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
                starts.into_iter().map(|start| start.join().unwrap()).collect()
            });
            assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
            assert_eq!(folder.names(), ["rng.sock"]);
            UnixStream::connect(&path).unwrap();
        }
    }

    #[test]
    fn the_socket_of_a_successor_survives() {
        let folder = Folder::new();
        let path = folder.0.join("rng.sock");
        let bound = bind(&path, MODE, None).unwrap();
        fs::remove_file(&path).unwrap();
        let _successor = UnixListener::bind(&path).unwrap();
        drop(bound);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_path_of_full_length_is_served_and_a_longer_one_refused() {
        let folder = Folder::new();
        let room = MAX_PATH - folder.0.as_os_str().len() - "//s".len();
        let long = folder.0.join("d".repeat(room));
        fs::create_dir(&long).unwrap();
        let path = long.join("s");
        assert_eq!(path.as_os_str().len(), MAX_PATH);
        let _bound = bind(&path, MODE, None).unwrap();
        UnixStream::connect(&path).unwrap();
        let path = long.join("so");
        let expected = format!(
            "{}: a socket path has at most 107 bytes, this one has 108",
            path.display()
        );
        assert_eq!(bind_error(&path), expected);
    }

    #[test]
    fn impossible_paths_are_named() {
        let folder = Folder::new();
        let path = folder.0.join("none/rng.sock");
        let error = bind(&path, MODE, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{}: cannot open its folder", path.display())
        );
        assert!(
            error
                .source()
                .unwrap()
                .to_string()
                .starts_with("No such file or directory")
        );
        assert_eq!(bind_error(Path::new("")), "\"\": not a path for a socket");
        assert_eq!(bind_error(Path::new("/")), "\"/\": not a path for a socket");
    }
}
