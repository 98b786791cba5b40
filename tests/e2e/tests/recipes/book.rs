// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The documents in docs/recipes, and the blocks in them.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

/// The folder of the documents.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/recipes")
}

/// A fenced block.
#[derive(Debug)]
pub(crate) struct Block {
    /// Document and line, for people.
    pub(crate) place: String,
    pub(crate) language: String,
    pub(crate) text: String,
}

/// The blocks of a document that nobody has taken yet.
#[derive(Debug)]
pub(crate) struct Recipe(Vec<Block>);

impl Recipe {
    pub(crate) fn read(name: &str) -> Result<Self> {
        let path = folder().join(format!("{name}.md"));
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut blocks: Vec<Block> = Vec::new();
        let mut inside = false;
        for (line, number) in text.lines().zip(1..) {
            if let Some(language) = line.strip_prefix("```") {
                inside = !inside;
                if inside {
                    blocks.push(Block {
                        place: format!("{name}.md:{number}"),
                        language: language.to_owned(),
                        text: String::new(),
                    });
                }
            } else if let Some(block) = blocks.last_mut().filter(|_| inside) {
                block.text.push_str(line);
                block.text.push('\n');
            }
        }
        ensure!(!inside, "{name}.md: a block without an end");
        Ok(Self(blocks))
    }

    /// The blocks in `language`, of which there must be some.
    pub(crate) fn take(&mut self, language: &str) -> Result<Vec<Block>> {
        let taken: Vec<Block> = self
            .0
            .extract_if(.., |block| block.language == language)
            .collect();
        ensure!(!taken.is_empty(), "no block in {language}");
        Ok(taken)
    }

    /// Fails when a block is left that nobody has looked at.
    pub(crate) fn close(self) -> Result<()> {
        let left: Vec<_> = self
            .0
            .iter()
            .map(|block| format!("{} ({})", block.place, block.language))
            .collect();
        ensure!(left.is_empty(), "nobody checks {}", left.join(", "));
        Ok(())
    }
}
