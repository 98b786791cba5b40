// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The public items of a file, and whether they have documentation.

use syn::visit::{self, Visit};

use crate::tidy::source::Source;

/// One item that is `pub`, or that is public because what it belongs to is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) documented: bool,
}

/// The public items outside of tests. Whether a private module hides them is not asked.
pub(super) fn items(source: &Source) -> Vec<Item> {
    let mut items = Items {
        source,
        found: Vec::new(),
    };
    items.visit_file(&source.syntax);
    items.found
}

struct Items<'a> {
    source: &'a Source,
    found: Vec<Item>,
}

impl Items<'_> {
    fn add(&mut self, name: &syn::Ident, attributes: &[syn::Attribute]) {
        let line = name.span().start().line;
        if !self.source.is_test(line) {
            let documented = attributes
                .iter()
                .any(|attribute| attribute.path().is_ident("doc"));
            self.found.push(Item {
                name: name.to_string(),
                line,
                documented,
            });
        }
    }

    fn add_public(&mut self, visibility: &syn::Visibility, name: &syn::Ident, attributes: &[syn::Attribute]) {
        if matches!(visibility, syn::Visibility::Public(_)) {
            self.add(name, attributes);
        }
    }
}

impl<'ast> Visit<'ast> for Items<'_> {
    fn visit_item(&mut self, node: &'ast syn::Item) {
        match node {
            syn::Item::Const(item) => self.add_public(&item.vis, &item.ident, &item.attrs),
            syn::Item::Enum(item) => {
                self.add_public(&item.vis, &item.ident, &item.attrs);
                if matches!(item.vis, syn::Visibility::Public(_)) {
                    item.variants
                        .iter()
                        .for_each(|variant| self.add(&variant.ident, &variant.attrs));
                }
            }
            syn::Item::Fn(item) => self.add_public(&item.vis, &item.sig.ident, &item.attrs),
            // A module in a file of its own is documented there.
            syn::Item::Mod(item) if item.content.is_some() => {
                self.add_public(&item.vis, &item.ident, &item.attrs);
            }
            syn::Item::Static(item) => self.add_public(&item.vis, &item.ident, &item.attrs),
            syn::Item::Struct(item) => self.add_public(&item.vis, &item.ident, &item.attrs),
            syn::Item::Trait(item) => {
                self.add_public(&item.vis, &item.ident, &item.attrs);
                if matches!(item.vis, syn::Visibility::Public(_)) {
                    item.items.iter().for_each(|item| self.trait_item(item));
                }
            }
            syn::Item::Type(item) => self.add_public(&item.vis, &item.ident, &item.attrs),
            _ => {}
        }
        visit::visit_item(self, node);
    }

    fn visit_field(&mut self, node: &'ast syn::Field) {
        if let Some(name) = &node.ident {
            self.add_public(&node.vis, name, &node.attrs);
        }
    }

    fn visit_impl_item_fn(&mut self, node: &'ast syn::ImplItemFn) {
        self.add_public(&node.vis, &node.sig.ident, &node.attrs);
        visit::visit_impl_item_fn(self, node);
    }

    fn visit_impl_item_const(&mut self, node: &'ast syn::ImplItemConst) {
        self.add_public(&node.vis, &node.ident, &node.attrs);
    }
}

impl Items<'_> {
    fn trait_item(&mut self, item: &syn::TraitItem) {
        match item {
            syn::TraitItem::Const(item) => self.add(&item.ident, &item.attrs),
            syn::TraitItem::Fn(item) => self.add(&item.sig.ident, &item.attrs),
            syn::TraitItem::Type(item) => self.add(&item.ident, &item.attrs),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Source, items};

    fn undocumented(text: &str) -> Vec<String> {
        let source = Source::parse("crates/x/src/lib.rs", text).unwrap();
        items(&source)
            .into_iter()
            .filter(|item| !item.documented)
            .map(|item| item.name)
            .collect()
    }

    #[test]
    fn every_kind_of_public_item_is_seen() {
        let text = "pub const A: u8 = 0; pub enum B { C { d: u8 } } pub fn e() {} pub mod f { pub static G: u8 = 0; }
            pub struct H { pub i: u8, j: u8 } pub trait K { fn l(); const M: u8; type N; } pub type O = u8;
            impl H { pub fn p() {} pub const Q: u8 = 0; fn r() {} } pub mod elsewhere;";
        assert_eq!(undocumented(text).concat(), "ABCefGHiKlMNOpQ");
    }

    #[test]
    fn private_documented_and_test_items_are_not_missed() {
        let text = "pub(crate) fn a() {}\nfn b() {}\n/// Does.\npub fn c() {}\n#[cfg(test)]\npub mod d {}\n";
        assert!(undocumented(text).is_empty());
    }
}
