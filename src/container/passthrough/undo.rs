//! The way back, and after majors have changed.

use std::collections::BTreeSet;

use super::change::Changes;
use super::survey::Survey;
use super::{DeviceNode, Edit, ForeignLine, NodeKind, OwnLine, first_line};
use crate::container::config::{Line, LxcConfig};
use crate::container::mount::{self, Effect};
use crate::container::rules::{self, DeviceRule, RuleLine};
use crate::container::shared;

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
        // Adopted, and somebody's own: it stays.
        if text.is_some() && text == replaced {
            continue;
        }
        match (claim, replaced.clone()) {
            (Some(number), Some(old)) if survey.text(*number).starts_with("lxc.") => {
                changes.correct(*number, old);
            }
            (Some(number), old) => {
                changes.remove(*number);
                old.into_iter().for_each(|line| changes.put_back(line, dialect));
            }
            // Taken out without anything in its place; a rollback may have brought it back.
            (None, Some(old)) if text.is_none() && numbers(&old).is_empty() => {
                changes.put_back(old, dialect);
            }
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
        lines_added: [&changes.devices[..], &changes.added[..]].concat(),
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

/// The lines of a container that came from another node, where its journal stayed: those in our form,
/// if they are as many as nobody else would write just so, all of the control nodes' among them.
/// `majors` are those of NVIDIA's drivers.
pub fn in_our_form(config: &LxcConfig, majors: &BTreeSet<u64>) -> Vec<OwnLine> {
    let survey = Survey::new(config, &[]);
    let is_mount = |line: &&Line<'_>| {
        let Some((mount::KEY, value)) = line.kind.meaning() else { return false };
        let path = value.split(' ').next().unwrap_or_default().to_owned();
        let node = |kind| DeviceNode { path: path.clone(), kind, numbers: Vec::new() };
        path.starts_with("/dev/nvidia")
            && [NodeKind::File, NodeKind::Directory]
                .iter()
                .any(|k| value == mount::value(&node(*k)))
    };
    let is_rule = |line: &&Line<'_>| {
        let Some((rules::ALLOW, value)) = line.kind.meaning() else { return false };
        let number = DeviceRule::parse(line).and_then(|rule| rule.number());
        number.is_some_and(|number| {
            (number.0 == rules::MAJOR || majors.contains(&number.0))
                && value == rules::value(number)
        })
    };
    let own =
        |line: &Line<'_>| OwnLine { text: Some(line.text.clone().into_owned()), replaced: None };
    let mounts: Vec<&Line<'_>> = survey.lines.iter().filter(is_mount).collect();
    let is_there = |path: &&str| {
        let starts = |line: &&Line<'_>| {
            line.kind.meaning().is_some_and(|(_, value)| value.starts_with(&format!("{path} ")))
        };
        mounts.iter().any(starts)
    };
    if !["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"].iter().all(is_there) {
        return survey.lines.iter().filter(|line| shared::is_shared(line)).map(own).collect();
    }
    let rules = survey.lines.iter().filter(is_rule);
    let trees = survey.lines.iter().filter(|line| shared::is_shared(line));
    mounts.into_iter().chain(rules).chain(trees).map(own).collect()
}

/// What was applied to a container before its devices got other numbers.
#[derive(Debug, Clone, Copy)]
pub struct Applied<'a> {
    /// The lines that are ours.
    pub own: &'a [OwnLine],
    /// The nodes, with the numbers that they had.
    pub nodes: &'a [DeviceNode],
}

/// An edit after numbers have changed, and the nodes with their new ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renumbered {
    /// The edit; its `foreign` is empty.
    pub edit: Edit,
    /// The nodes as the journal should have them.
    pub nodes: Vec<DeviceNode>,
}

/// Rewrites our own rules whose device has another number now, and nothing else. Rules in our form
/// that a rollback brought back from another boot are among them: those for a major that none of
/// `majors`, what drivers of this host have, is.
///
/// `now` gives the numbers of a node, or of all nodes in a directory, none where it is missing: its
/// rules then stay.
pub fn renumber(
    config: &LxcConfig,
    before: Applied<'_>,
    majors: &BTreeSet<u64>,
    now: impl Fn(&DeviceNode) -> Vec<(u64, u64)>,
) -> Renumbered {
    let mut work = Renumbering {
        config,
        survey: Survey::new(config, &[]),
        changes: Changes::default(),
        own: before.own.to_vec(),
    };
    let nodes: Vec<DeviceNode> =
        before.nodes.iter().map(|node| with_numbers(node, &now(node))).collect();
    let numbers = |nodes: &[DeviceNode]| -> Vec<(u64, u64)> {
        nodes.iter().flat_map(|node| node.numbers.iter().copied()).collect()
    };
    let pairs: Vec<_> = numbers(before.nodes).into_iter().zip(numbers(&nodes)).collect();
    work.replace(&pairs);
    work.after_rollback(&nodes, majors);
    let corrected = work.changes.corrected.iter();
    let edit = Edit {
        config: work.changes.apply(config),
        lines_added: Vec::new(),
        lines_corrected: corrected.map(|(n, new)| (work.survey.text(*n), new.clone())).collect(),
        lines_removed: Vec::new(),
        foreign: Vec::new(),
        own: work.own,
    };
    Renumbered { edit, nodes }
}

/// A node with the numbers that it has now, one for each that it had. Only majors change: in a
/// directory the minor tells which is which, also of one that is not made yet.
fn with_numbers(node: &DeviceNode, now: &[(u64, u64)]) -> DeviceNode {
    let (Some(first), true) = (now.first(), !node.numbers.is_empty()) else { return node.clone() };
    let numbers = match node.kind {
        NodeKind::File => vec![*first],
        NodeKind::Directory => node.numbers.iter().map(|(_, minor)| (first.0, *minor)).collect(),
    };
    DeviceNode { numbers, ..node.clone() }
}

/// Major and minor.
type Number = (u64, u64);

struct Renumbering<'a> {
    config: &'a LxcConfig,
    survey: Survey<'a>,
    changes: Changes,
    own: Vec<OwnLine>,
}

impl Renumbering<'_> {
    /// Rewrites our rules for numbers to others, all at once: two may have changed places.
    fn replace(&mut self, pairs: &[(Number, Number)]) {
        let dialect = self.config.dialect();
        for record in &mut self.own {
            let Some(kind) = record.text.as_deref().map(|text| first_line(text, dialect)) else {
                continue;
            };
            let is_its = |(old, new): &&(Number, Number)| {
                old != new && kind.meaning() == Some((rules::ALLOW, &rules::value(*old)))
            };
            let Some((_, new)) = pairs.iter().find(is_its) else { continue };
            let new = rules::line(*new, dialect);
            let same = self.survey.lines.iter().filter(|l| l.kind.meaning() == kind.meaning());
            same.for_each(|line| self.changes.correct(line.number, new.clone()));
            record.text = Some(new);
        }
    }

    /// Rewrites rules of another boot, by their minor, where one is missing.
    fn after_rollback(&mut self, nodes: &[DeviceNode], majors: &BTreeSet<u64>) {
        let is_mounted = |node: &&DeviceNode| !self.survey.mounts(node, &Effect::Passes).is_empty();
        let numbers = nodes.iter().filter(is_mounted).flat_map(|node| node.numbers.iter().copied());
        let numbers: Vec<(u64, u64)> = numbers.filter(|number| number.0 != rules::MAJOR).collect();
        for number in numbers {
            let edited = self.changes.apply(self.config);
            let edited = Survey::new(&edited, &[]);
            if edited.rules.opens(number) {
                continue;
            }
            let is_stale = |line: &&RuleLine| {
                let is_its = line.rule.number().is_some_and(|old| {
                    let ours = rules::value(old);
                    old.1 == number.1 && edited.meaning(line.number) == Some((rules::ALLOW, &ours))
                });
                is_its && line.rule.is_outdated(majors)
            };
            let Some(line) = edited.rules.lines().iter().find(is_stale).map(|line| line.number)
            else {
                continue;
            };
            let new = rules::line(number, self.config.dialect());
            self.changes.correct(line, new.clone());
            self.own.push(OwnLine { text: Some(new), replaced: None });
        }
    }
}
