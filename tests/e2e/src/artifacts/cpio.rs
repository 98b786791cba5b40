// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A writer of cpio archives in the `newc` format, the one that the kernel unpacks as an initramfs.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const SYMLINK: u32 = 0o120_777;
const DEVICE: u32 = 0o020_600;

/// An archive under way.
pub(super) struct Archive<W> {
    out: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, inode: 0 }
    }

    /// A directory; its parent must come first.
    pub(super) fn directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, DIRECTORY, (0, 0), &[])
    }

    /// A file that everyone may read and execute.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.entry(path, PROGRAM, (0, 0), content)
    }

    /// A symbolic link at `path` to `target`.
    pub(super) fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path, SYMLINK, (0, 0), target.as_bytes())
    }

    /// A character device.
    pub(super) fn device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.entry(path, DEVICE, (major, minor), &[])
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.out.flush()
    }

    /// One header of 110 ASCII characters, the name with its NUL, and the content, each padded to 4 bytes.
    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> io::Result<()> {
        let too_large = |_| io::Error::new(io::ErrorKind::FileTooLarge, path.to_owned());
        let size = u32::try_from(content.len()).map_err(too_large)?;
        let name = u32::try_from(path.len() + 1).map_err(too_large)?;
        self.inode += 1;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        // inode, mode, uid, gid, links, mtime, size, device of the file system, device, length of the name, checksum
        let fields = [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name, 0,
        ];
        write!(self.out, "070701")?;
        fields
            .iter()
            .try_for_each(|field| write!(self.out, "{field:08x}"))?;
        self.out.write_all(path.as_bytes())?;
        self.out.write_all(padding(110 + path.len() + 1, 1))?;
        self.out.write_all(content)?;
        self.out.write_all(padding(content.len(), 0))
    }
}

/// Zeros up to the next multiple of 4 after `length`, and `extra` more.
fn padding(length: usize, extra: usize) -> &'static [u8] {
    &[0; 4][..length.next_multiple_of(4) - length + extra]
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn entries_are_aligned_and_carry_names_sizes_and_modes() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.directory("bin").unwrap();
        archive.file("bin/a", b"hello").unwrap();
        archive.symlink("init", "bin/a").unwrap();
        archive.device("console", 5, 1).unwrap();
        archive.finish().unwrap();

        let number =
            |at: usize| usize::from_str_radix(std::str::from_utf8(&bytes[at..at + 8]).unwrap(), 16).unwrap();
        let mut at = 0;
        let mut seen = Vec::new();
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let (mode, size, name_size) = (number(at + 14), number(at + 54), number(at + 94));
            let rdev = (number(at + 78), number(at + 86));
            let name = std::str::from_utf8(&bytes[at + 110..at + 110 + name_size])
                .unwrap()
                .to_owned();
            at = (at + 110 + name_size).next_multiple_of(4);
            seen.push((name, mode, rdev, bytes[at..at + size].to_vec()));
            at = (at + size).next_multiple_of(4);
        }
        assert_eq!(
            seen,
            [
                ("bin\0".to_owned(), 0o040_755, (0, 0), vec![]),
                ("bin/a\0".to_owned(), 0o100_755, (0, 0), b"hello".to_vec()),
                ("init\0".to_owned(), 0o120_777, (0, 0), b"bin/a".to_vec()),
                ("console\0".to_owned(), 0o020_600, (5, 1), vec![]),
                ("TRAILER!!!\0".to_owned(), 0, (0, 0), vec![]),
            ]
        );
    }
}
