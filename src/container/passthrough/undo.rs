//! The way back, and after majors have changed.

use super::change::Changes;
use super::survey::Survey;
use super::{DeviceNode, Edit, ForeignLine, OwnLine, first_line};
use crate::container::config::{Line, LxcConfig};
use crate::container::rules::{self, DeviceRule};

/// Takes out every line that is ours and still as we wrote it, and puts back what it replaced.
///
/// Lines that somebody has edited since are theirs now: they stay, and are told of.
pub fn withdraw(config: &LxcConfig, own: &[OwnLine]) -> Edit {
    let dialect = config.dialect();
    let survey = Survey::new(config, &[]);
    let mut changes = Changes::default();
    let numbers = |text: &str| -> Vec<usize> {
        let wanted = first_line(text, dialect);
        let is_same = |line: &&Line<'_>| line.kind.meaning() == wanted.meaning();
        survey.lines.iter().filter(is_same).map(|line| line.number).collect()
    };
    let claims = claims(&survey, own, numbers);
    for (OwnLine { text, replaced }, claim) in own.iter().zip(&claims) {
        match (claim, replaced.clone()) {
            (Some(number), Some(old)) if survey.text(*number).starts_with("lxc.") => {
                changes.correct(*number, old);
            }
            (Some(number), old) => {
                changes.remove(*number);
                old.into_iter().for_each(|line| changes.add(line));
            }
            // Taken out without anything in its place; a rollback may have brought it back.
            (None, Some(old)) if text.is_none() && numbers(&old).is_empty() => changes.add(old),
            // Our line is gone, and what it replaced is somebody else's affair now.
            (None, _) => {}
        }
    }
    // The same line twice means no more than once.
    let doubled = own.iter().filter_map(|own| own.text.as_deref()).flat_map(&numbers);
    doubled.filter(|number| !claims.contains(&Some(*number))).for_each(|n| changes.remove(n));
    let text = |number: &usize| survey.text(*number);
    let untouched = survey.lines.iter().filter(|line| !changes.touches(line.number));
    let why = "nvstage did not write it in this form";
    let foreign = untouched.filter_map(|line| survey.foreign(line));
    let foreign = foreign.map(|line| ForeignLine { why: why.to_owned(), ..line });
    Edit {
        config: changes.apply(config),
        lines_added: changes.added.clone(),
        lines_corrected: changes.corrected.iter().map(|(n, new)| (text(n), new.clone())).collect(),
        lines_removed: changes.removed.iter().map(text).collect(),
        foreign: foreign.collect(),
        own: Vec::new(),
    }
}

/// For every line of ours the number of the one that it is now, each once; a line that is written
/// just like it comes before one that only means the same.
fn claims(
    survey: &Survey<'_>,
    own: &[OwnLine],
    numbers: impl Fn(&str) -> Vec<usize>,
) -> Vec<Option<usize>> {
    let mut claims: Vec<Option<usize>> = vec![None; own.len()];
    for exactly in [true, false] {
        for (index, line) in own.iter().enumerate() {
            let Some(text) = line.text.as_deref().filter(|_| claims[index].is_none()) else {
                continue;
            };
            let fits = |number: &usize| {
                !claims.contains(&Some(*number)) && (!exactly || survey.text(*number) == text)
            };
            claims[index] = numbers(text).into_iter().find(fits);
        }
    }
    claims
}

/// An edit after numbers have changed, and the nodes with their new ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renumbered {
    /// The edit; its `foreign` is empty.
    pub edit: Edit,
    /// The nodes as the journal should have them.
    pub nodes: Vec<DeviceNode>,
}

/// Rewrites our own rules whose device has another number now, and nothing else.
///
/// `before` are the nodes as they were when the rules were written; `now` gives the numbers that
/// the nodes below a path have, none where the node is missing: its rules then stay.
pub fn renumber(
    config: &LxcConfig,
    own: &[OwnLine],
    before: &[DeviceNode],
    now: impl Fn(&DeviceNode) -> Vec<(u64, u64)>,
) -> Renumbered {
    let dialect = config.dialect();
    let survey = Survey::new(config, &[]);
    let mut changes = Changes::default();
    let mut own = own.to_vec();
    let mut nodes = Vec::new();
    let mut pairs: Vec<((u64, u64), (u64, u64))> = Vec::new();
    for node in before {
        let numbers = now(node);
        if numbers.is_empty() {
            nodes.push(node.clone());
            continue;
        }
        // Only majors change: in a directory the minor tells which is which.
        let is_alone = node.numbers.len() == 1 && numbers.len() == 1;
        pairs.extend(node.numbers.iter().filter_map(|old| {
            let same = numbers.iter().find(|new| is_alone || new.1 == old.1)?;
            (same != old).then_some((*old, *same))
        }));
        nodes.push(DeviceNode { numbers, ..node.clone() });
    }
    for (old, new) in pairs {
        let (old, new) = (rules::line(old, dialect), rules::line(new, dialect));
        let wanted = first_line(&old, dialect);
        let is_it = |record: &&mut OwnLine| {
            let kind = record.text.as_deref().map(|text| first_line(text, dialect));
            kind.is_some_and(|kind| kind.meaning() == wanted.meaning())
        };
        let Some(record) = own.iter_mut().find(is_it) else { continue };
        let lines = survey.lines.iter().filter(|line| DeviceRule::parse(line).is_some());
        let same = lines.filter(|line| line.kind.meaning() == wanted.meaning());
        same.for_each(|line| changes.correct(line.number, new.clone()));
        record.text = Some(new);
    }
    let corrected = changes.corrected.iter();
    let edit = Edit {
        config: changes.apply(config),
        lines_added: Vec::new(),
        lines_corrected: corrected.map(|(n, new)| (survey.text(*n), new.clone())).collect(),
        lines_removed: Vec::new(),
        foreign: Vec::new(),
        own,
    };
    Renumbered { edit, nodes }
}
