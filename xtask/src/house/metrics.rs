// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is counted in one file, and how files add up.

use super::documented::items;
use crate::tidy;
use crate::tidy::source::Source;

/// Something with a size, and where it is.
#[derive(Clone, Debug)]
pub(super) struct Sized {
    pub(super) path: String,
    pub(super) lines: usize,
}

/// The counts of one package, or of all.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    pub(super) files: Vec<Sized>,
    pub(super) functions: Vec<Sized>,
    /// Lines of code that are not tests.
    pub(super) code: usize,
    /// Lines of tests over lines of what they test. A package that exists to test is all test here.
    pub(super) weighed: (usize, usize),
    /// `#[test]` in the source; what a macro makes of one line counts once.
    pub(super) tests: usize,
    /// Pairs of equal runs of lines, in code and in tests.
    pub(super) duplicates: (usize, usize),
    pub(super) unsafes: usize,
    pub(super) unsafe_files: usize,
    pub(super) unwraps: usize,
    pub(super) swallowed: usize,
    pub(super) globs: Vec<String>,
    pub(super) public: usize,
    pub(super) undocumented: Vec<String>,
}

impl Metrics {
    pub(super) fn add(&mut self, source: &Source) {
        let code = source.code_lines();
        let tests = source.code().count() - code;
        let place = |line: usize| format!("{}:{line}", source.path);
        if code > 0 {
            self.files.push(Sized {
                path: source.path.clone(),
                lines: code,
            });
        }
        let functions = source.functions();
        self.functions.extend(
            functions
                .iter()
                .filter(|function| !function.test)
                .map(|function| Sized {
                    path: format!("{} {}", place(function.line), function.name),
                    lines: function.lines,
                }),
        );
        self.code += code;
        let split = if source.is_test_package() {
            (tests + code, 0)
        } else {
            (tests, code)
        };
        self.weighed = (self.weighed.0 + split.0, self.weighed.1 + split.1);
        self.tests += source.find(&["#", "[", "test", "]"]).count();
        let unsafes = source.find(&["unsafe"]).count();
        self.unsafes += unsafes;
        self.unsafe_files += usize::from(unsafes > 0);
        let (unwraps, expects) = tidy::code::unwraps(source);
        self.unwraps += unwraps.len() + expects.len();
        self.swallowed += source.find(&["map_err", "(", "|", "_", "|"]).count();
        self.globs
            .extend(tidy::code::globs(source).into_iter().map(place));
        let items = items(source);
        self.public += items.len();
        self.undocumented
            .extend(items.iter().filter(|item| !item.documented).map(|item| {
                let name = &item.name;
                format!("{} {name}", place(item.line))
            }));
    }

    pub(super) fn merge(&mut self, more: &Self) {
        self.files.extend(more.files.iter().cloned());
        self.functions.extend(more.functions.iter().cloned());
        self.code += more.code;
        self.weighed = (self.weighed.0 + more.weighed.0, self.weighed.1 + more.weighed.1);
        self.tests += more.tests;
        self.duplicates = (
            self.duplicates.0 + more.duplicates.0,
            self.duplicates.1 + more.duplicates.1,
        );
        self.unsafes += more.unsafes;
        self.unsafe_files += more.unsafe_files;
        self.unwraps += more.unwraps;
        self.swallowed += more.swallowed;
        self.globs.extend(more.globs.iter().cloned());
        self.public += more.public;
        self.undocumented.extend(more.undocumented.iter().cloned());
    }

    pub(super) fn biggest(&self) -> Option<&Sized> {
        self.files.iter().max_by_key(|file| file.lines)
    }

    pub(super) fn longest(&self) -> Option<&Sized> {
        self.functions.iter().max_by_key(|function| function.lines)
    }

    pub(super) fn median(&self) -> usize {
        let mut lines: Vec<usize> = self.files.iter().map(|file| file.lines).collect();
        lines.sort_unstable();
        lines.get(lines.len() / 2).copied().unwrap_or(0)
    }

    pub(super) fn documented_share(&self) -> String {
        if self.public == 0 {
            return "-".to_owned();
        }
        // Rounded down: 100 % means all.
        format!(
            "{} %",
            (self.public - self.undocumented.len()) * 100 / self.public
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Metrics, Source};

    fn measure(path: &str, text: &str) -> Metrics {
        let mut metrics = Metrics::default();
        metrics.add(&Source::parse(path, text).unwrap());
        metrics
    }

    #[test]
    fn a_file_is_counted() {
        let text = "use a::*;\n/// Does.\npub fn f() {\n    unsafe { g() }\n    x.unwrap();\n    \
                    y.expect(\"it is there\");\n    z.map_err(|_| E)\n}\npub struct S;\n\
                    #[test]\nfn t() {\n    x.unwrap();\n}\n";
        let metrics = measure("crates/x/src/lib.rs", text);
        assert_eq!((metrics.code, metrics.weighed, metrics.tests), (8, (4, 8), 1));
        assert_eq!((metrics.unsafes, metrics.unsafe_files), (1, 1));
        assert_eq!((metrics.unwraps, metrics.swallowed), (2, 1));
        assert_eq!(metrics.longest().unwrap().lines, 6);
        assert_eq!(metrics.globs, ["crates/x/src/lib.rs:1"]);
        assert_eq!(metrics.undocumented, ["crates/x/src/lib.rs:9 S"]);
        assert_eq!(metrics.documented_share(), "50 %");
    }

    #[test]
    fn a_package_that_tests_is_all_test() {
        assert_eq!(
            measure("crates/vu-testkit/src/lib.rs", "fn f() {}\n").weighed,
            (1, 0)
        );
    }

    #[test]
    fn packages_add_up() {
        let mut total = measure("crates/x/src/lib.rs", "fn f() {}\n");
        total.merge(&measure("crates/y/src/lib.rs", "fn f() {\n}\npub fn g() {}\n"));
        assert_eq!((total.code, total.files.len(), total.median()), (4, 2, 3));
        assert_eq!(total.documented_share(), "0 %");
    }
}
