//! What is printed about bundles.

use std::fmt::Write as _;

use indicatif::HumanBytes;

use super::Printer;
use crate::cmd::bundle::Done;
use crate::engine::bundle::Amount;
use crate::engine::bundle::export::Exported;
use crate::engine::bundle::import::{Became, Imported, Verified};

impl Printer {
    /// Prints what was done with a bundle.
    pub fn bundle(&self, done: &Done) {
        match done {
            Done::Exported(exported) => self.result(exported, || export_text(exported)),
            Done::Imported(imported) => self.result(imported, || import_text(imported)),
            Done::Verified(verified) => self.result(verified, || verify_text(verified)),
        }
    }
}

fn amount(amount: Amount) -> String {
    let plural = if amount.files == 1 { "" } else { "s" };
    format!("{} file{plural}, {}", amount.files, HumanBytes(amount.bytes))
}

fn export_text(exported: &Exported) -> String {
    let mut text = String::new();
    for lock in &exported.locks {
        let _ = writeln!(text, "lock {lock}");
    }
    let (content, place) = (amount(exported.content), exported.bundle.display());
    let _ = writeln!(text, "exported: {content}, to {place}");
    if exported.resumed > 0 {
        let resumed = HumanBytes(exported.resumed);
        let _ = writeln!(text, "of it {resumed} were there from an earlier export");
    }
    if exported.removed > 0 {
        let _ = writeln!(text, "removed: {} files of an earlier bundle", exported.removed);
    }
    text
}

fn import_text(imported: &Imported) -> String {
    let mut text = String::new();
    for lock in &imported.locks {
        let became = match lock.became {
            Became::New => "new",
            Became::Replaced => "replaced",
            Became::Unchanged => "unchanged",
        };
        let _ = writeln!(text, "lock {}: {became}", lock.name);
    }
    let _ = writeln!(text, "new: {}", amount(imported.new));
    let _ = writeln!(text, "already there: {}", amount(imported.there));
    let (bundle, cache) = (imported.bundle.display(), imported.cache.display());
    let _ = writeln!(text, "{bundle} is verified, and in {cache}");
    text
}

fn verify_text(verified: &Verified) -> String {
    let mut text = String::new();
    for lock in &verified.locks {
        let _ = writeln!(text, "lock {lock}: trusted");
    }
    let (content, bundle) = (amount(verified.content), verified.bundle.display());
    let _ = writeln!(text, "{bundle} is complete and verified: {content}");
    text
}
