//! What is done about every node and every line.

use std::collections::BTreeSet;

use super::change::Changes;
use super::survey::Survey;
use super::{
    DeviceNode, Edit, Method, NodeKind, OwnLine, Wanted, device_value, first_line, is_in_our_form,
    one_by_one, others,
};
use crate::container::config::{Dialect, Line, LineKind, LxcConfig};
use crate::container::mount::{self, Effect};
use crate::container::rules::{self, DeviceRule, DeviceRules, RuleEffect, RuleLine};
use crate::container::shared;
use crate::error::{Error, Result};

/// How many `dev[n]` a container can have (`PVE::LXC::Config`, `MAX_DEVICES`).
const DEVICE_KEYS: usize = 256;

pub(super) fn edit(config: &LxcConfig, wanted: &Wanted<'_>) -> Result<Edit> {
    let dialect = config.dialect();
    let own: Vec<Option<LineKind>> =
        wanted.own.iter().map(|own| Some(first_line(own.text.as_ref()?, dialect))).collect();
    let next = config.at_next_start();
    let (nodes, apart) = match wanted.method {
        Method::Mount => beside_others(&next, wanted, &own),
        Method::Device => (one_by_one(wanted.nodes), Vec::new()),
    };
    let mut survey = Survey::new(&next, &nodes);
    survey.apart = apart;
    let mut decision = Decision {
        config,
        live: config.lines().count(),
        wanted,
        survey,
        own,
        changes: Changes::default(),
        used: BTreeSet::new(),
        mounted: Vec::new(),
    };
    decision.driver_lines()?;
    let passed_directories = decision.directories();
    for node in &nodes {
        let is_below = |directory: &&str| node.path.starts_with(&format!("{directory}/"));
        if passed_directories.iter().any(is_below) {
            decision.mounted.push(node.clone());
            continue;
        }
        match wanted.method {
            Method::Mount => decision.mount(node)?,
            Method::Device => decision.device(node)?,
        }
    }
    decision.rules()?;
    decision.trees()?;
    decision.leftovers();
    // What went just now may have been what let a device open.
    if let Some(denied) = decision.denial() {
        return Err(denied);
    }
    match decision.changes.last() > decision.live {
        true => Err(super::refuse_pending()),
        false => Ok(decision.finish()),
    }
}

/// The error for a device that a line of somebody else's denies: no rule of ours would help.
fn refuse_denied(line: &RuleLine) -> Error {
    Error::host("pass a device: its configuration denies it")
        .because(format!("line {}: `{}`", line.number, line.text))
        .hint(format!("take line {} out of its configuration", line.number))
}

/// The nodes that are mounted, and the directories of which that is one by one: nothing of somebody
/// else's is hidden.
fn beside_others(
    config: &LxcConfig,
    wanted: &Wanted<'_>,
    own: &[Option<LineKind>],
) -> (Vec<DeviceNode>, Vec<String>) {
    let survey = Survey::new(config, &[]);
    let is_ours = |number: usize| is_one_of(own, survey.meaning(number));
    let apart = survey.directories_apart(wanted.nodes, is_ours);
    (others::taken_apart(wanted.nodes, &apart), apart)
}

/// Whether a line with this meaning is among those of the journal.
fn is_one_of(own: &[Option<LineKind>], found: Option<(&str, &str)>) -> bool {
    found.is_some() && own.iter().flatten().any(|own| own.meaning() == found)
}

struct Decision<'a> {
    /// The file.
    config: &'a LxcConfig,
    /// How many lines its live section has; others are pending.
    live: usize,
    wanted: &'a Wanted<'a>,
    /// What the next start has.
    survey: Survey<'a>,
    /// What the journal says is ours, line by line of [`Wanted::own`].
    own: Vec<Option<LineKind>>,
    changes: Changes,
    /// Lines that do what is wanted.
    used: BTreeSet<usize>,
    /// Nodes that a mount entry passes: those need rules.
    mounted: Vec<DeviceNode>,
}

impl<'a> Decision<'a> {
    fn dialect(&self) -> Dialect {
        self.config.dialect()
    }

    /// Whether the journal calls a line ours. One of the pending changes is somebody's decision.
    fn is_recorded(&self, number: usize) -> bool {
        let found = self.survey.meaning(number).filter(|_| number <= self.live);
        is_one_of(&self.own, found)
    }

    /// Takes out the lines that bring another driver.
    fn driver_lines(&mut self) -> Result<()> {
        let numbers = self.survey.driver_lines_out(self.wanted.driver_lines, self.wanted.own)?;
        numbers.into_iter().for_each(|number| self.changes.remove(number));
        Ok(())
    }

    /// Whether a mount entry is ours, by the journal or by its form.
    fn is_our_mount(&self, number: usize, node: &DeviceNode) -> bool {
        let is_formed = |line: &Line<'_>| is_in_our_form(&line.kind, node);
        self.is_recorded(number) || self.survey.line(number).is_some_and(is_formed)
    }

    fn mount(&mut self, node: &DeviceNode) -> Result<()> {
        // An entry of Proxmox's own dialog looks like ours: only the journal makes it ours.
        let (ours, others): (Vec<usize>, Vec<usize>) = self
            .survey
            .devices_of(node)
            .map(|device| device.number)
            .partition(|number| self.is_recorded(*number));
        if !others.is_empty() {
            self.used.extend(others);
            return Ok(());
        }
        for number in ours {
            self.changes.remove(number);
        }
        self.mounted.push(node.clone());
        let passing = self.survey.mounts(node, &Effect::Passes);
        if !passing.is_empty() {
            self.used.extend(passing);
            return Ok(());
        }
        self.survey.refuse_covered(node)?;
        let line = mount::line(node, self.dialect());
        match self.survey.mounts(node, &Effect::AbsoluteTarget).first() {
            Some(number) => self.changes.correct(*number, line),
            None => self.changes.add(line),
        }
        Ok(())
    }

    /// Takes out the lines that pass directories, where nodes are passed one by one; returns the
    /// directories that somebody else's line passes.
    fn directories(&mut self) -> Vec<&'a str> {
        let mut passed = Vec::new();
        if self.wanted.method == Method::Mount {
            return passed;
        }
        let directories = self.wanted.nodes.iter().filter(|n| n.kind == NodeKind::Directory);
        for directory in directories {
            self.take_out_absolute(directory);
            if !self.take_out_mounts(directory) {
                passed.push(directory.path.as_str());
            }
        }
        passed
    }

    fn device(&mut self, node: &DeviceNode) -> Result<()> {
        let value = device_value(node, self.wanted.users);
        let devices: Vec<(usize, String)> = self
            .survey
            .devices_of(node)
            .map(|device| (device.number, device.key.clone()))
            .collect();
        if let Some((number, key)) = devices.first() {
            let line = format!("{key}: {value}");
            let is_other = self.survey.meaning(*number) != Some((key.as_str(), value.as_str()));
            match is_other && self.is_recorded(*number) {
                true => self.changes.correct(*number, line),
                false => _ = self.used.insert(*number),
            }
            self.take_out_mounts(node);
            return Ok(());
        }
        if !self.take_out_mounts(node) {
            self.mounted.push(node.clone());
            return Ok(());
        }
        self.survey.refuse_covered(node)?;
        self.take_out_absolute(node);
        let key = self.free_key()?;
        self.changes.devices.push(format!("{key}: {value}"));
        Ok(())
    }

    /// Takes out our mount entries of a node; `false` where one of somebody else's passes it.
    fn take_out_mounts(&mut self, node: &DeviceNode) -> bool {
        let (ours, others): (Vec<usize>, Vec<usize>) = self
            .survey
            .mounts(node, &Effect::Passes)
            .into_iter()
            .partition(|number| self.is_our_mount(*number, node));
        for number in ours {
            self.changes.remove(number);
        }
        others.is_empty()
    }

    fn take_out_absolute(&mut self, node: &DeviceNode) {
        for number in self.survey.mounts(node, &Effect::AbsoluteTarget) {
            self.changes.remove(number);
        }
    }

    fn free_key(&self) -> Result<String> {
        let used: BTreeSet<String> = self.config.keys().collect();
        let is_added = |key: &str| {
            let mut lines = self.changes.devices.iter();
            lines.any(|line| line.split_once(':').is_some_and(|(added, _)| added == key))
        };
        let is_used = |key: &String| used.contains(key) || is_added(key);
        (0..DEVICE_KEYS).map(|number| format!("dev{number}")).find(|key| !is_used(key)).ok_or_else(
            || {
                Error::host(format!(
                    "pass another device: all {DEVICE_KEYS} `dev[n]` of its configuration are in use"
                ))
                .hint("`--passthrough mount` needs none")
            },
        )
    }

    /// Rules for what is mounted and LXC's list does not let open. A rule that has gone out of date
    /// becomes the one that is missing.
    fn rules(&mut self) -> Result<()> {
        let mut numbers: Vec<(u64, u64)> = Vec::new();
        for number in self.mounted.iter().flat_map(|node| &node.numbers) {
            if !numbers.contains(number) {
                numbers.push(*number);
            }
        }
        let list = self.list_after();
        let mut outdated = Vec::new();
        let mut used = Vec::new();
        for line in self.survey.rules.lines() {
            let allows = |number: &(u64, u64)| line.rule.allows(*number);
            let counts = line.effect == RuleEffect::InForce || !self.survey.is_unprivileged;
            match counts && numbers.iter().any(allows) {
                true => used.push(line.number),
                false if self.is_recorded(line.number) => outdated.push(line.number),
                false => {}
            }
        }
        numbers.retain(|number| !list.opens(*number));
        if let Some(denied) = numbers.iter().find_map(|number| list.denial(*number)) {
            return Err(refuse_denied(denied));
        }
        // A line that is written just so and has no effect is ours with the one that has.
        for line in &self.survey.lines {
            let is_equal = |number: &(u64, u64)| {
                line.kind.meaning() == Some((rules::ALLOW, &rules::value(*number)))
            };
            if numbers.iter().any(is_equal) {
                used.push(line.number);
            }
        }
        self.used.extend(used);
        let is_about_ours = self.is_about_our_devices();
        let is_outdated = |line: &&RuleLine| {
            is_about_ours
                && line.rule.is_outdated(self.wanted.majors)
                && !outdated.contains(&line.number)
        };
        let of_others =
            self.survey.rules.lines().iter().filter(is_outdated).map(|line| line.number);
        let emptied = self.survey.rules.last_emptied();
        let candidates: Vec<usize> =
            outdated.iter().copied().chain(of_others).filter(|number| *number > emptied).collect();
        let mut candidates = candidates.into_iter();
        for number in &numbers {
            let line = rules::line(*number, self.dialect());
            match candidates.next() {
                Some(old) => self.changes.correct(old, line),
                None => self.changes.add(line),
            }
        }
        // One that a later line takes back is added again at the end.
        let list = self.list_after();
        for number in numbers.into_iter().filter(|number| !list.opens(*number)) {
            self.changes.add(rules::line(number, self.dialect()));
        }
        Ok(())
    }

    /// The error for a passed node that somebody else's line denies after the changes so far.
    fn denial(&self) -> Option<Error> {
        let list = self.list_after();
        let mut numbers = self.wanted.nodes.iter().flat_map(|node| &node.numbers);
        let denied = numbers.find(|number| !list.opens(**number))?;
        list.denial(*denied).map(refuse_denied)
    }

    /// LXC's list as it is after the changes so far.
    fn list_after(&self) -> DeviceRules {
        let edited = self.changes.apply(self.config).at_next_start();
        DeviceRules::of(&edited, &|path| {
            let node = self.survey.nodes.iter().find(|node| node.path == path);
            node.and_then(|node| node.numbers.first().copied())
        })
    }

    /// Whether a rule of somebody else's for a major that nobody has can only be about our devices:
    /// they were passed before, and no other ones are that could have had it.
    fn is_about_our_devices(&self) -> bool {
        let is_numbered_anew =
            |node: &&DeviceNode| node.numbers.iter().any(|(major, _)| *major != rules::MAJOR);
        let was_passed = |node: &DeviceNode| {
            let effects = [Effect::Passes, Effect::AbsoluteTarget];
            effects.iter().any(|effect| !self.survey.mounts(node, effect).is_empty())
        };
        self.wanted.nodes.iter().filter(is_numbered_anew).any(was_passed)
            && !self.survey.has_devices_of_others()
    }

    /// The lines of shared trees: one each, and none for what is not wanted any more.
    fn trees(&mut self) -> Result<()> {
        for tree in self.wanted.trees {
            let lines = &self.survey.lines;
            let there: Vec<&Line<'_>> =
                lines.iter().filter(|line| tree.is_place_of(line)).collect();
            if let Some(line) = there.iter().find(|line| !self.is_ours_shared(line)) {
                let what = format!("share `/{}`: its configuration has another mount", tree.target);
                return Err(Error::host(what)
                    .because(others::numbered(line))
                    .hint("take that line out, or install the packages inside: `--cuda apt`"));
            }
            if let Some(line) = lines.iter().find(|line| tree.is_above(line)) {
                let what = format!("share `/{}`: another mount is below it", tree.target);
                return Err(Error::host(what)
                    .because(others::numbered(line))
                    .hint("take that line out, or install the packages inside: `--cuda apt`"));
            }
            if let Some(line) = lines.iter().find(|line| tree.is_volume_at(line)) {
                let what = format!("share `/{}`: a volume is mounted there", tree.target);
                return Err(Error::host(what)
                    .because(others::numbered(line))
                    .hint("install the packages inside: `--cuda apt`"));
            }
            let text = tree.line(self.dialect());
            let right = there.iter().find(|line| tree.is(&line.kind)).map(|line| line.number);
            match (right, there.first().map(|line| line.number)) {
                (Some(number), _) => _ = self.used.insert(number),
                (None, Some(number)) => self.changes.correct(number, text),
                (None, None) => self.changes.add(text),
            }
        }
        let is_left = |line: &&Line<'_>| {
            shared::is_shared(line)
                && !self.used.contains(&line.number)
                && !self.changes.touches(line.number)
        };
        let left: Vec<usize> =
            self.survey.lines.iter().filter(is_left).map(|line| line.number).collect();
        left.into_iter().for_each(|number| self.changes.remove(number));
        Ok(())
    }

    fn is_ours_shared(&self, line: &Line<'_>) -> bool {
        shared::is_shared(line) || self.is_recorded(line.number)
    }

    /// What is ours and no longer wanted goes.
    fn leftovers(&mut self) {
        let meaning_of = |number: &usize| self.survey.meaning(*number);
        let used: Vec<_> = self.used.iter().map(meaning_of).collect();
        let is_left = |number: &usize| {
            self.is_recorded(*number)
                && !used.contains(&meaning_of(number))
                && !self.changes.touches(*number)
        };
        let numbers = self.survey.lines.iter().map(|line| line.number);
        let left: Vec<usize> = numbers.filter(is_left).collect();
        for number in left {
            self.changes.remove(number);
        }
        if self.wanted.method == Method::Mount || self.survey.is_unprivileged {
            return;
        }
        // Rules in our form for what Proxmox VE passes now.
        for node in self.survey.nodes {
            if self.mounted.contains(node) {
                continue;
            }
            for line in &self.survey.lines {
                let is_rule = DeviceRule::parse(line).is_some();
                if is_rule && is_in_our_form(&line.kind, node) {
                    self.changes.remove(line.number);
                }
            }
        }
    }

    fn finish(self) -> Edit {
        let text = |number: &usize| self.survey.text(*number);
        let untouched = self.survey.lines.iter().filter(|l| !self.changes.touches(l.number));
        let foreign = untouched.filter(|line| !self.is_recorded(line.number));
        let corrected = &self.changes.corrected;
        Edit {
            config: self.changes.apply(self.config),
            lines_added: [&self.changes.devices[..], &self.changes.added[..]].concat(),
            lines_corrected: corrected.iter().map(|(n, new)| (text(n), new.clone())).collect(),
            lines_removed: self.changes.removed.iter().map(text).collect(),
            foreign: foreign.filter_map(|line| self.survey.foreign(line)).collect(),
            own: self.own_lines(),
        }
    }

    /// What is ours when the changes are made.
    fn own_lines(&self) -> Vec<OwnLine> {
        let mut own = Vec::new();
        let mut known = BTreeSet::new();
        let lines = &self.survey.lines;
        for (record, old) in self.wanted.own.iter().zip(&self.own) {
            let Some(old) = old.as_ref().and_then(LineKind::meaning) else {
                let is_back = |line: &str| {
                    let wanted = first_line(line, self.dialect());
                    lines.iter().any(|line| line.kind.meaning() == wanted.meaning())
                };
                if !record.replaced.as_deref().is_some_and(is_back) {
                    own.push(record.clone());
                }
                continue;
            };
            let is_it = |line: &&Line<'_>| line.kind.meaning() == Some(old);
            let numbers: Vec<usize> = lines.iter().filter(is_it).map(|line| line.number).collect();
            known.extend(numbers.iter().copied());
            let Some(number) = numbers.first() else {
                // Until the next start it is still there.
                let is_live = |line: Line<'_>| line.kind.meaning() == Some(old);
                if self.config.lines().any(is_live) {
                    own.push(record.clone());
                }
                continue;
            };
            let text = match self.changes.corrected.get(number) {
                Some(new) => Some(new.clone()),
                None if self.changes.removed.contains(number) => None,
                None => record.text.clone(),
            };
            if text.is_some() || record.replaced.is_some() {
                own.push(OwnLine { text, replaced: record.replaced.clone() });
            }
        }
        own.extend(self.new_own_lines(&known));
        own
    }

    /// Lines that were nobody's of ours before: corrected, taken out, adopted, added.
    fn new_own_lines(&self, known: &BTreeSet<usize>) -> Vec<OwnLine> {
        let mut own = Vec::new();
        for line in self.survey.lines.iter().filter(|line| !known.contains(&line.number)) {
            let text = line.text.clone().into_owned();
            if let Some(new) = self.changes.corrected.get(&line.number) {
                // A tree of ours that is shown instead of another one: nothing of somebody else's.
                let replaced = (!shared::is_shared(line)).then_some(text);
                own.push(OwnLine { text: Some(new.clone()), replaced });
                continue;
            }
            let in_our_form = |node: &DeviceNode| {
                is_in_our_form(&line.kind, node) || self.is_our_device(line, node)
            };
            let mut nodes = self.survey.nodes.iter().chain(self.wanted.nodes);
            let is_ours = nodes.any(in_our_form) || shared::is_shared(line);
            match (self.changes.removed.contains(&line.number), is_ours) {
                (true, false) => own.push(OwnLine { text: None, replaced: Some(text) }),
                (false, true) if self.used.contains(&line.number) => {
                    // An entry of Proxmox's own dialog stays when ours go.
                    let replaced = (!text.starts_with("lxc.")).then(|| text.clone());
                    own.push(OwnLine { text: Some(text), replaced });
                }
                _ => {}
            }
        }
        let added = self.changes.devices.iter().chain(&self.changes.added);
        own.extend(added.map(|line| OwnLine { text: Some(line.clone()), replaced: None }));
        own
    }

    /// Whether a `dev[n]` equals the one that we would write, while we write such.
    fn is_our_device(&self, line: &Line<'_>, node: &DeviceNode) -> bool {
        let is_equal = |(key, value): (&str, &str)| {
            key.starts_with("dev") && value == device_value(node, self.wanted.users)
        };
        self.wanted.method == Method::Device && line.kind.meaning().is_some_and(is_equal)
    }
}
