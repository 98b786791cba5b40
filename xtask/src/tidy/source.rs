// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A file of the tree as the rules see it: its text and, for Rust, its tokens, its syntax and which lines are tests.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Folders that are not ours to judge: version control and build results.
const SKIPPED: [&str; 3] = [".git", "target", "dist"];

/// A text file, by its path from the root of the workspace.
pub(crate) struct Text {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Each text file under `root`, in order of the path. A file that is not UTF-8 is none.
pub(crate) fn walk(root: &Path) -> Result<Vec<Text>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry.with_context(|| folder.display().to_string())?;
            let kind = entry
                .file_type()
                .with_context(|| entry.path().display().to_string())?;
            if SKIPPED.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let bytes = fs::read(entry.path()).with_context(|| entry.path().display().to_string())?;
                let path = entry.path();
                let path = path.strip_prefix(root)?.to_string_lossy().into_owned();
                if let Ok(text) = String::from_utf8(bytes) {
                    found.push(Text { path, text });
                }
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// One token: a word, a literal, a sign or a bracket, with its line.
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// One function with a body.
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    /// Lines with code, signature and braces included.
    pub(crate) lines: usize,
    pub(crate) test: bool,
}

/// One Rust file.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) syntax: syn::File,
    pub(crate) tokens: Vec<Token>,
    /// For each line whether it belongs to a test.
    tests: Vec<bool>,
}

impl Source {
    pub(crate) fn parse(path: &str, text: &str) -> Result<Self> {
        let stream = TokenStream::from_str(text).map_err(|error| anyhow!("{path}: {error}"))?;
        let mut tokens = Vec::new();
        flatten(stream.clone(), &mut tokens);
        let syntax = syn::parse2(stream).map_err(|error| anyhow!("{path}: {error}"))?;
        let mut marker = TestLines(vec![in_test_file(path); text.lines().count()]);
        marker.visit_file(&syntax);
        Ok(Self {
            path: path.to_owned(),
            text: text.to_owned(),
            syntax,
            tokens,
            tests: marker.0,
        })
    }

    /// The folder of the package: `crates/<name>`, `tests/<name>` or `xtask`.
    pub(crate) fn package(&self) -> &str {
        package_of(&self.path)
    }

    /// The name of the device crate that the file is a part of.
    pub(crate) fn device(&self) -> Option<&str> {
        self.package()
            .strip_prefix("crates/")
            .filter(|name| name.starts_with("vhost-device-"))
    }

    /// The path from the package's folder on.
    pub(crate) fn in_package(&self) -> &str {
        self.path
            .strip_prefix(self.package())
            .unwrap_or(&self.path)
            .trim_start_matches('/')
    }

    /// True for a package that exists to test: there a panic is the way to say that something is wrong.
    pub(crate) fn is_test_package(&self) -> bool {
        self.package().starts_with("tests/") || self.package() == "crates/vu-testkit"
    }

    /// True if the line, counted from 1, is a part of a test.
    pub(crate) fn is_test(&self, line: usize) -> bool {
        self.tests.get(line.wrapping_sub(1)).copied().unwrap_or(false)
    }

    /// The lines that hold code, tests included: number from 1, and the line without the blanks around it.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let numbered = self
            .text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line.trim()));
        numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with("//"))
    }

    /// How many lines hold code that is not a test.
    pub(crate) fn code_lines(&self) -> usize {
        self.code().filter(|&(line, _)| !self.is_test(line)).count()
    }

    /// The functions that have a body.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let mut collector = Functions {
            source: self,
            found: Vec::new(),
        };
        collector.visit_file(&self.syntax);
        collector.found
    }

    /// The lines where `pattern`, given token by token, begins.
    pub(crate) fn find<'a>(&'a self, pattern: &'a [&'a str]) -> impl Iterator<Item = usize> + 'a {
        let windows = self.tokens.windows(pattern.len());
        windows
            .filter(|window| {
                window
                    .iter()
                    .map(|token| token.text.as_str())
                    .eq(pattern.iter().copied())
            })
            .map(|window| window[0].line)
    }
}

/// The folder of the package that `path` lies in.
pub(crate) fn package_of(path: &str) -> &str {
    let depth = if path.starts_with("xtask/") { 1 } else { 2 };
    match path.match_indices('/').nth(depth - 1) {
        Some((end, _)) => &path[..end],
        None => path,
    }
}

/// Whole files of tests: the package's `tests/` and `benches/`, and `tests.rs`, `x_tests.rs` or `tests/` beside what
/// they test.
fn in_test_file(path: &str) -> bool {
    let inside = path.strip_prefix(package_of(path)).unwrap_or(path);
    let named = ["/tests.rs", "_tests.rs"].iter().any(|end| inside.ends_with(end));
    named || inside.contains("/tests/") || inside.starts_with("/benches/")
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                tokens.push(Token {
                    text: open.to_owned(),
                    line,
                });
                flatten(group.stream(), tokens);
                tokens.push(Token {
                    text: close.to_owned(),
                    line: group.span_close().start().line,
                });
            }
            other => tokens.push(Token {
                text: other.to_string(),
                line,
            }),
        }
    }
}

/// True for `#[test]` and `#[cfg(test)]`, also `#[cfg(all(test, ...))]`.
fn marks_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            let mut tokens = Vec::new();
            flatten(list.tokens.clone(), &mut tokens);
            let has = |word: &str| tokens.iter().any(|token| token.text == word);
            has("test") && !has("not")
        }
        _ => false,
    })
}

struct TestLines(Vec<bool>);

impl TestLines {
    fn mark(&mut self, attributes: &[syn::Attribute], node: &impl Spanned) {
        if marks_test(attributes) {
            let span = node.span();
            let last = span.end().line.min(self.0.len());
            self.0[span.start().line - 1..last].fill(true);
        }
    }
}

impl Visit<'_> for TestLines {
    fn visit_item_mod(&mut self, node: &syn::ItemMod) {
        self.mark(&node.attrs, node);
        visit::visit_item_mod(self, node);
    }
    fn visit_item_fn(&mut self, node: &syn::ItemFn) {
        self.mark(&node.attrs, node);
        visit::visit_item_fn(self, node);
    }
    fn visit_item_impl(&mut self, node: &syn::ItemImpl) {
        self.mark(&node.attrs, node);
        visit::visit_item_impl(self, node);
    }
    fn visit_impl_item_fn(&mut self, node: &syn::ImplItemFn) {
        self.mark(&node.attrs, node);
        visit::visit_impl_item_fn(self, node);
    }
    fn visit_item_struct(&mut self, node: &syn::ItemStruct) {
        self.mark(&node.attrs, node);
    }
    fn visit_item_use(&mut self, node: &syn::ItemUse) {
        self.mark(&node.attrs, node);
    }
}

struct Functions<'a> {
    source: &'a Source,
    found: Vec<Function>,
}

impl Functions<'_> {
    fn add(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let (first, last) = (signature.span().start().line, body.span().end().line);
        let lines = self
            .source
            .code()
            .filter(|&(line, _)| (first..=last).contains(&line))
            .count();
        let test = self.source.is_test(first);
        self.found.push(Function {
            name: signature.ident.to_string(),
            line: first,
            lines,
            test,
        });
    }
}

impl Visit<'_> for Functions<'_> {
    fn visit_item_fn(&mut self, node: &syn::ItemFn) {
        self.add(&node.sig, &node.block);
        visit::visit_item_fn(self, node);
    }
    fn visit_impl_item_fn(&mut self, node: &syn::ImplItemFn) {
        self.add(&node.sig, &node.block);
        visit::visit_impl_item_fn(self, node);
    }
    fn visit_trait_item_fn(&mut self, node: &syn::TraitItemFn) {
        if let Some(body) = &node.default {
            self.add(&node.sig, body);
        }
        visit::visit_trait_item_fn(self, node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIXED: &str = "// a comment\nfn f() {\n\n    // why\n    g();\n}\n\n#[cfg(test)]\nmod tests {\n    #[test]\n    fn t() {}\n}\n";

    #[test]
    fn lines_of_tests_and_comments_are_not_code() {
        let source = Source::parse("xtask/src/f.rs", MIXED).unwrap();
        assert_eq!(source.code_lines(), 3);
        let functions: Vec<_> = source
            .functions()
            .into_iter()
            .map(|f| (f.name, f.lines, f.test))
            .collect();
        assert_eq!(functions, [("f".to_owned(), 3, false), ("t".to_owned(), 1, true)]);
    }

    #[test]
    fn a_file_under_tests_is_all_test() {
        for path in [
            "crates/vhost-device-rng/tests/rng.rs",
            "tests/e2e/tests/rng.rs",
            "xtask/src/tidy/tests.rs",
            "crates/vu-common/src/chain_tests.rs",
        ] {
            assert_eq!(
                Source::parse(path, "fn f() {}\n").unwrap().code_lines(),
                0,
                "{path}"
            );
        }
        assert_eq!(
            Source::parse("tests/e2e/src/qemu.rs", "fn f() {}\n")
                .unwrap()
                .code_lines(),
            1
        );
    }

    #[test]
    fn the_opposite_of_a_test_is_code() {
        let text = "#[cfg(not(test))]\nfn f() {}\n";
        assert_eq!(Source::parse("xtask/src/f.rs", text).unwrap().code_lines(), 2);
    }

    #[test]
    fn packages_are_found_by_path() {
        assert_eq!(package_of("crates/vu-common/src/lib.rs"), "crates/vu-common");
        assert_eq!(package_of("tests/e2e/tests/rng.rs"), "tests/e2e");
        assert_eq!(package_of("xtask/src/tidy/mod.rs"), "xtask");
    }

    #[test]
    fn tokens_are_found_inside_macros_but_not_in_comments() {
        let source =
            Source::parse("xtask/src/f.rs", "// x.unwrap()\nfn f() {\n p!(x.unwrap());\n}\n").unwrap();
        assert_eq!(source.find(&[".", "unwrap", "(", ")"]).collect::<Vec<_>>(), [3]);
    }
}
