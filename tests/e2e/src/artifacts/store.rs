// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The cache folder: one folder per part and set of ingredients, complete or absent, never half built.

use std::env;
use std::fmt::Write;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

/// A folder of another set of ingredients goes when it was not used for so long.
const KEEP: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The file in each part that says what it was made from.
const MANIFEST: &str = "manifest";

/// What a part is made from: its name for people, and whatever must change the result when it changes.
#[derive(Clone, Debug, Default)]
pub(super) struct Ingredients(Vec<(String, Vec<u8>)>);

impl Ingredients {
    /// Adds one ingredient.
    pub(super) fn with(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.0.push((name.to_owned(), content.into()));
        self
    }

    /// Adds every file below `folder`, by relative path and content.
    pub(super) fn with_files(self, folder: &Path) -> Result<Self> {
        self.with_files_below(folder, "")
    }

    fn with_files_below(mut self, folder: &Path, prefix: &str) -> Result<Self> {
        for path in entries(folder)? {
            let name = format!("{prefix}{}", path.file_name().unwrap_or_default().display());
            if path.is_dir() {
                self = self.with_files_below(&path, &format!("{name}/"))?;
            } else {
                let content = fs::read(&path).with_context(|| path.display().to_string())?;
                self = self.with(&name, content);
            }
        }
        Ok(self)
    }

    /// Adds one file by its name and content.
    pub(super) fn with_file(self, path: &Path) -> Result<Self> {
        let content = fs::read(path).with_context(|| path.display().to_string())?;
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Ok(self.with(&name, content))
    }

    /// 64 bits of FNV-1a: told apart are the versions that one person has, not forgeries.
    fn key(&self) -> String {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for (name, content) in &self.0 {
            for byte in name.bytes().chain([0]).chain(content.iter().copied()).chain([0]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        format!("{hash:016x}")
    }
}

/// What a build found out and the manifest shall tell, such as the version of a package.
pub(super) type Facts = Vec<(String, String)>;

/// The cache folder.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
}

impl Store {
    pub(super) fn open() -> Result<Self> {
        let base = match (env::var_os("XDG_CACHE_HOME"), env::var_os("HOME")) {
            (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
            (_, Some(home)) => PathBuf::from(home).join(".cache"),
            _ => bail!("neither XDG_CACHE_HOME nor HOME is set: no place for the cache folder"),
        };
        Ok(Self {
            folder: base.join("vhost-device-lab"),
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the log of a part is kept.
    pub(super) fn log(&self, part: &str) -> Result<PathBuf> {
        let folder = self.folder.join("logs");
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(folder.join(part).with_extension("log"))
    }

    /// The folder of `part` made from `ingredients`. Where it does not exist, `build` fills a new folder, which gets
    /// its name only when `build` has succeeded: an interrupted build leaves nothing that could be taken for a part.
    pub(super) fn part(
        &self,
        part: &str,
        ingredients: &Ingredients,
        build: impl FnOnce(&Path) -> Result<Facts>,
    ) -> Result<PathBuf> {
        let folder = self.folder.join(format!("{part}-{}", ingredients.key()));
        if used(&folder) {
            return Ok(folder);
        }
        let _users = self.lock_folder(FlockOperation::LockShared)?;
        let _lock = self.lock(part)?;
        if used(&folder) {
            return Ok(folder);
        }
        let partial = self.folder.join(format!("{part}.partial"));
        remove(&partial)?;
        fs::create_dir_all(&partial).with_context(|| partial.display().to_string())?;
        let facts = build(&partial).with_context(|| format!("cannot build the lab's part {part}"))?;
        let mut text = String::new();
        for (name, value) in &facts {
            writeln!(text, "{name} = {value}").expect("writing to a String succeeds");
        }
        fs::write(partial.join(MANIFEST), text).with_context(|| partial.display().to_string())?;
        fs::rename(&partial, &folder).with_context(|| folder.display().to_string())?;
        self.prune(part, &folder)?;
        Ok(folder)
    }

    /// Removes every version of `part`.
    pub(super) fn forget(&self, part: &str) -> Result<()> {
        if !self.folder.exists() {
            return Ok(());
        }
        let _lock = self.lock(part)?;
        self.versions(part)?.iter().try_for_each(|folder| remove(folder))
    }

    /// The manifests of all parts.
    pub(super) fn manifest(&self) -> Result<String> {
        let mut text = String::new();
        if !self.folder.exists() {
            return Ok(text);
        }
        for folder in entries(&self.folder)? {
            let Ok(facts) = fs::read_to_string(folder.join(MANIFEST)) else {
                continue;
            };
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            write!(text, "[{name}]\n{facts}").expect("writing to a String succeeds");
        }
        Ok(text)
    }

    /// Removes the cache folder, unless a build is under way.
    pub(super) fn clean(&self) -> Result<()> {
        if !self.folder.exists() {
            return Ok(());
        }
        let folder = File::open(&self.folder).with_context(|| self.folder.display().to_string())?;
        // A program that this process is just starting holds copies of all locks for a moment.
        let start = Instant::now();
        while flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
            if start.elapsed() > Duration::from_secs(1) {
                bail!("{}: a build is under way in it", self.folder.display());
            }
            thread::sleep(Duration::from_millis(20));
        }
        remove(&self.folder)
    }

    /// Waits until nobody else works at `name`; others wait until the handle is dropped.
    pub(super) fn lock(&self, name: &str) -> Result<File> {
        let path = self.folder.join(format!("{name}.lock"));
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            eprintln!("lab: {name}: waiting for another process that is building it");
            flock(&file, FlockOperation::LockExclusive).with_context(|| path.display().to_string())?;
        }
        Ok(file)
    }

    fn lock_folder(&self, how: FlockOperation) -> Result<File> {
        fs::create_dir_all(&self.folder).with_context(|| self.folder.display().to_string())?;
        let folder = File::open(&self.folder).with_context(|| self.folder.display().to_string())?;
        flock(&folder, how).with_context(|| self.folder.display().to_string())?;
        Ok(folder)
    }

    /// Removes versions of `part` other than `current` that nobody has used for long.
    fn prune(&self, part: &str, current: &Path) -> Result<()> {
        for folder in self.versions(part)? {
            let used = fs::metadata(folder.join(MANIFEST)).and_then(|data| data.modified());
            let age = used.ok().and_then(|time| time.elapsed().ok());
            if folder != current && age.is_none_or(|age| age > KEEP) {
                remove(&folder)?;
            }
        }
        Ok(())
    }

    fn versions(&self, part: &str) -> Result<Vec<PathBuf>> {
        let is_version = |folder: &PathBuf| {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            name.rsplit_once('-')
                .is_some_and(|(name, key)| name == part && key.len() == 16)
        };
        Ok(entries(&self.folder)?.into_iter().filter(is_version).collect())
    }
}

/// What lies in `folder`, in the order of names.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut paths = fs::read_dir(folder)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    };
    list().with_context(|| folder.display().to_string())
}

/// Whether `folder` is a complete part; notes that it is in use.
fn used(folder: &Path) -> bool {
    match File::options().append(true).open(folder.join(MANIFEST)) {
        Ok(file) => {
            // Only the age for `prune` depends on it.
            let _ = file.set_modified(SystemTime::now());
            true
        }
        Err(_) => false,
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| folder.display().to_string())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Ingredients, Store};
    use anyhow::bail;
    use std::fs;
    use std::path::PathBuf;

    fn store(name: &str) -> Store {
        let folder = std::env::temp_dir().join(format!("vu-store-{}-{name}", std::process::id()));
        Store { folder }
    }

    fn made(store: &Store, content: &str) -> PathBuf {
        let ingredients = Ingredients::default().with("content", content);
        let build = |folder: &std::path::Path| {
            fs::write(folder.join("file"), content)?;
            Ok(vec![("content".to_owned(), content.to_owned())])
        };
        store.part("thing", &ingredients, build).unwrap()
    }

    #[test]
    fn a_part_is_built_once_per_set_of_ingredients() {
        let store = store("once");
        let first = made(&store, "a");
        assert_ne!(first, made(&store, "b"));
        let again = store.part("thing", &Ingredients::default().with("content", "a"), |_| {
            bail!("built twice")
        });
        assert_eq!(again.unwrap(), first);
        assert_eq!(fs::read_to_string(first.join("file")).unwrap(), "a");
        assert_eq!(store.manifest().unwrap().matches("content = a\n").count(), 1);
        store.forget("thing").unwrap();
        assert!(!first.exists());
        store.clean().unwrap();
        assert!(!store.folder().exists());
    }

    #[test]
    fn a_failed_build_leaves_no_part() {
        let store = store("failed");
        let ingredients = Ingredients::default().with("content", "a");
        let failed = store.part("thing", &ingredients, |folder| {
            fs::write(folder.join("half"), "")?;
            bail!("no luck")
        });
        assert!(format!("{:#}", failed.unwrap_err()).contains("no luck"));
        assert!(!made(&store, "a").join("half").exists());
        store.clean().unwrap();
    }

    #[test]
    fn nothing_is_cleaned_under_a_running_build() {
        let store = store("running");
        let ingredients = Ingredients::default();
        store
            .part("thing", &ingredients, |_| {
                assert!(store.clean().unwrap_err().to_string().contains("under way"));
                Ok(Vec::new())
            })
            .unwrap();
        store.clean().unwrap();
    }

    #[test]
    fn a_file_counts_by_its_place() {
        let folder = store("place").folder;
        let key = |place: &str| {
            fs::create_dir_all(folder.join(place)).unwrap();
            fs::write(folder.join(place).join("mod.rs"), "").unwrap();
            let key = Ingredients::default().with_files(&folder).unwrap().key();
            fs::remove_dir_all(folder.join(place)).unwrap();
            key
        };
        assert_ne!(key("a"), key("b"));
        assert_eq!(key("a"), key("a"));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn names_and_contents_are_kept_apart_in_the_key() {
        let one = Ingredients::default().with("a", "bc");
        let two = Ingredients::default().with("ab", "c");
        assert_ne!(one.key(), two.key());
    }
}
