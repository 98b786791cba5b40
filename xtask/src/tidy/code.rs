// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What code may say: imports, unfinished work, swallowed causes, panics, and who may name the rust-vmm crates.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::Finding;
use super::source::Source;

/// What only `vu-common` names, so that a change of their interface is a change of one crate.
pub(super) const BEHIND_THE_WALL: [&str; 4] = ["vhost", "vhost_user_backend", "virtio_queue", "vm_memory"];

pub(super) fn check(source: &Source, findings: &mut Vec<Finding>) {
    let mut push = |line, rule, text: &str| findings.push(Finding::new(&source.path, line, rule, text));
    for line in globs(source) {
        push(line, "glob-import", "name what is imported");
    }
    for word in ["todo", "unimplemented"] {
        for line in source.find(&[word, "!"]) {
            push(line, "unfinished", &format!("`{word}!` is not done"));
        }
    }
    for line in source.find(&["#", "[", "ignore"]) {
        push(
            line,
            "ignored-test",
            "skip at run time, print why and record it in VU_SKIP_LOG",
        );
    }
    for line in source.find(&["map_err", "(", "|", "_", "|"]) {
        push(line, "swallowed-cause", "`map_err(|_| ..)` throws the cause away");
    }
    panics(source, &mut push);
    wall(source, &mut push);
    blanket_allow(source, &mut push);
}

/// The lines with `use x::*`. `use super::*` is what a module of tests begins with.
pub(crate) fn globs(source: &Source) -> Vec<usize> {
    let mut globs = Globs {
        source,
        found: Vec::new(),
    };
    globs.visit_file(&source.syntax);
    globs.found
}

struct Globs<'a> {
    source: &'a Source,
    found: Vec<usize>,
}

impl<'ast> Visit<'ast> for Globs<'_> {
    fn visit_use_path(&mut self, node: &'ast syn::UsePath) {
        let line = node.span().start().line;
        if !(node.ident == "super" && self.source.is_test(line)) {
            visit::visit_use_path(self, node);
        }
    }
    fn visit_use_glob(&mut self, node: &'ast syn::UseGlob) {
        self.found.push(node.span().start().line);
    }
}

/// The lines outside of tests with `.unwrap()`, and those with `.expect(..)` and its argument.
pub(crate) fn unwraps(source: &Source) -> (Vec<usize>, Vec<(usize, &str)>) {
    let unwraps = source
        .find(&[".", "unwrap", "(", ")"])
        .filter(|&line| !source.is_test(line))
        .collect();
    let expects = source.tokens.windows(4).filter_map(|window| match window {
        [dot, name, open, argument]
            if dot.text == "." && name.text == "expect" && open.text == "(" && !source.is_test(name.line) =>
        {
            Some((name.line, argument.text.as_str()))
        }
        _ => None,
    });
    (unwraps, expects.collect())
}

fn panics(source: &Source, push: &mut impl FnMut(usize, &'static str, &str)) {
    if source.is_test_package() {
        return;
    }
    let (unwraps, expects) = unwraps(source);
    for line in unwraps {
        push(
            line,
            "unwrap",
            "handle it, or `expect` the invariant that makes it impossible",
        );
    }
    for (line, argument) in expects {
        let states_something = argument.starts_with('"') && argument.trim_matches('"').contains(' ');
        if !states_something {
            push(
                line,
                "unwrap",
                "`expect` has to state the invariant that makes it impossible",
            );
        }
    }
}

fn wall(source: &Source, push: &mut impl FnMut(usize, &'static str, &str)) {
    if source.device().is_none() || !source.in_package().starts_with("src/") {
        return;
    }
    for token in &source.tokens {
        if BEHIND_THE_WALL.contains(&token.text.as_str()) {
            push(
                token.line,
                "wall",
                &format!("a device does not name `{}`: vu-common does", token.text),
            );
        }
    }
}

fn blanket_allow(source: &Source, push: &mut impl FnMut(usize, &'static str, &str)) {
    if !matches!(source.in_package(), "src/lib.rs" | "src/main.rs") {
        return;
    }
    for attribute in source
        .syntax
        .attrs
        .iter()
        .filter(|attribute| attribute.path().is_ident("allow"))
    {
        push(
            attribute.span().start().line,
            "blanket-allow",
            "allow a lint where it is broken, not in a whole crate",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::found;
    use super::check;

    const COMMON: &str = "crates/vu-common/src/x.rs";
    const DEVICE: &str = "crates/vhost-device-x/src/x.rs";

    fn rule(path: &str, text: &str) -> Vec<String> {
        found(check, path, text)
    }

    #[test]
    fn a_glob_import_is_found() {
        assert_eq!(rule(COMMON, "use std::io::*;"), ["1: glob-import"]);
        assert_eq!(rule(COMMON, "use super::*;"), ["1: glob-import"]);
        assert_eq!(
            rule(COMMON, "#[cfg(test)]\nmod t {\n use std::fmt::*;\n}"),
            ["3: glob-import"]
        );
        assert!(rule(COMMON, "#[cfg(test)]\nmod t {\n use super::*;\n}").is_empty());
    }

    #[test]
    fn unfinished_work_is_found() {
        assert_eq!(rule(COMMON, "fn f() {\n todo!()\n}"), ["2: unfinished"]);
        assert_eq!(
            rule(COMMON, "fn f() { unimplemented!(\"x\") }"),
            ["1: unfinished"]
        );
    }

    #[test]
    fn an_ignored_test_is_found() {
        assert_eq!(rule(COMMON, "#[test]\n#[ignore]\nfn f() {}"), ["2: ignored-test"]);
        assert_eq!(
            rule(COMMON, "#[test]\n#[ignore = \"slow\"]\nfn f() {}"),
            ["2: ignored-test"]
        );
    }

    #[test]
    fn a_swallowed_cause_is_found() {
        assert_eq!(
            rule(COMMON, "fn f() { g().map_err(|_| Error::Bad) }"),
            ["1: swallowed-cause"]
        );
        assert!(rule(COMMON, "fn f() { g().map_err(Error::Bad) }").is_empty());
    }

    #[test]
    fn unwrap_is_found_outside_of_tests() {
        assert_eq!(rule(COMMON, "fn f() { g().unwrap(); }"), ["1: unwrap"]);
        assert_eq!(rule(COMMON, "fn f() { p!(g().unwrap()); }"), ["1: unwrap"]);
        assert!(rule(COMMON, "#[test]\nfn f() { g().unwrap(); }").is_empty());
        assert!(rule("crates/vu-testkit/src/x.rs", "fn f() { g().unwrap(); }").is_empty());
        assert!(rule("crates/vu-common/tests/x.rs", "fn f() { g().unwrap(); }").is_empty());
    }

    #[test]
    fn expect_has_to_state_an_invariant() {
        assert_eq!(rule(COMMON, "fn f() { g().expect(\"failed\"); }"), ["1: unwrap"]);
        assert_eq!(rule(COMMON, "fn f() { g().expect(message); }"), ["1: unwrap"]);
        assert!(
            rule(
                COMMON,
                "fn f() { g().expect(\"the parser checked the length\"); }"
            )
            .is_empty()
        );
    }

    #[test]
    fn a_device_that_reaches_over_the_wall_is_found() {
        assert_eq!(rule(DEVICE, "use vhost::vhost_user::Error;"), ["1: wall"]);
        assert_eq!(rule(DEVICE, "fn f(q: &virtio_queue::Queue) {}"), ["1: wall"]);
        assert_eq!(
            rule(DEVICE, "use vm_memory::Bytes;\nuse vhost_user_backend::VringT;"),
            ["1: wall", "2: wall"]
        );
        assert!(rule(DEVICE, "use vhost_device_x::Device;").is_empty());
        assert!(rule(COMMON, "use vhost::vhost_user::Error;").is_empty());
    }

    #[test]
    fn an_allow_for_a_whole_crate_is_found() {
        let text = "#![allow(unused, reason = \"noise\")]";
        assert_eq!(
            rule("crates/vhost-device-x/src/lib.rs", text),
            ["1: blanket-allow"]
        );
    }
}
