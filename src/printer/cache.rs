//! What `nvstage cache` found and did, for people.

use std::fmt::Write as _;

use indicatif::HumanBytes;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{Printer, table};
use crate::cache::{Contents, Prune, Pruned, Verified};
use crate::cmd::cache::Answer;

impl Printer {
    /// Prints the answer of `nvstage cache`.
    pub fn cache(&self, answer: &Answer) {
        self.result(answer, || match answer {
            Answer::Directory(found) => format!("{}\n", found.directory),
            Answer::Contents(contents) => listed(contents),
            Answer::Verified(verified) => checked(verified),
            Answer::Pruned(pruned) => removed(pruned),
        });
    }
}

fn listed(contents: &Contents) -> String {
    let unreached = match contents.unreadable_locks.is_empty() {
        true => "nothing: prune removes it",
        false => "no lock that can be read",
    };
    let mut table = table(["what", "size", "last used", "kept by"]);
    for thing in &contents.things {
        table.add_row([
            thing.what.clone(),
            HumanBytes(thing.bytes).to_string(),
            thing.last_used.map_or("-".to_owned(), day),
            match thing.kept_by.is_empty() {
                true => unreached.to_owned(),
                false => thing.kept_by.join("\n"),
            },
        ]);
    }
    let totals = format!(
        "{} kept, {} that prune would free, in {}\n",
        HumanBytes(contents.kept_bytes),
        HumanBytes(contents.prunable_bytes),
        contents.directory
    );
    if contents.things.is_empty() { totals } else { format!("{table}\n{totals}") }
}

/// The day, as the clock on the wall has it.
fn day(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system()).date().to_string()
}

fn checked(verified: &Verified) -> String {
    let mut text = String::new();
    for damaged in &verified.damaged {
        let _ = writeln!(text, "damaged  {}", damaged.name);
        let _ = writeln!(text, "         {}", damaged.sha256);
        kept_by(&mut text, &damaged.kept_by);
    }
    for missing in &verified.missing {
        let _ = writeln!(text, "missing  {}", missing.name);
        let _ = writeln!(text, "         {}", missing.sha256);
        kept_by(&mut text, &missing.kept_by);
    }
    let outcome = match (verified.damaged.len(), verified.missing.len()) {
        (0, 0) => "all intact".to_owned(),
        (damaged, 0) => format!("{damaged} damaged and removed"),
        (0, missing) => format!("{missing} missing"),
        (damaged, missing) => format!("{damaged} damaged and removed, {missing} missing"),
    };
    let (bytes, seconds) = (HumanBytes(verified.bytes), verified.seconds);
    let _ = writeln!(text, "{} files, {bytes}, in {seconds:.1} s: {outcome}", verified.files);
    text
}

fn kept_by(text: &mut String, locks: &[String]) {
    for lock in locks {
        let _ = writeln!(text, "         of {lock}");
    }
}

fn removed(pruned: &Pruned) -> String {
    let is_done = pruned.mode == Prune::Remove;
    let kept = HumanBytes(pruned.kept_bytes);
    if pruned.removed.is_empty() {
        return format!("nothing to remove, {kept} kept, in {}\n", pruned.directory);
    }
    let mut rows: Vec<(&str, usize, u64)> = Vec::new();
    for removed in &pruned.removed {
        match rows.iter_mut().find(|(what, ..)| *what == removed.what) {
            Some((_, count, bytes)) => (*count, *bytes) = (*count + 1, *bytes + removed.bytes),
            None => rows.push((&removed.what, 1, removed.bytes)),
        }
    }
    let mut table = table([if is_done { "removed" } else { "would be removed" }, "count", "size"]);
    for (what, count, bytes) in rows {
        table.add_row([what.to_owned(), count.to_string(), HumanBytes(bytes).to_string()]);
    }
    let (freed, directory) = (HumanBytes(pruned.freed_bytes), &pruned.directory);
    let freed = if is_done { format!("{freed} freed") } else { format!("{freed} would be freed") };
    format!("{table}\n{freed}, {kept} kept, in {directory}\n")
}
