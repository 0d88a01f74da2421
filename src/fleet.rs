//! A fleet: containers, and what each of them is to get, as TOML data for `--file`.
//!
//! ```toml
//! schema = 1
//!
//! # What holds for every container that does not say otherwise. All of it may be left out.
//! recipe = "cuda-12-8"          # a shipped name, one in /etc/nvstage/recipes, or a path
//! profile = "full"              # of the recipe
//! gpus = "all"                  # none, all, or a list: "0,1", 0, [0, "GPU-…"]
//! passthrough = "mount"         # or "device"
//! method = "installer"          # or "share": how the driver gets inside
//! cuda = "apt"                  # or "share"
//! set = ["driver=580.76.05"]    # as --set takes it
//!
//! [[container]]
//! id = 101                      # a number, a range "105-110", a name of plain LXC,
//! gpus = "0"                    # or a list of those
//!
//! [[container]]
//! id = [102, "105-110"]
//! recipe = "recipes/mine.toml"  # relative to this file
//! set = ["packages=nvtop"]      # comes after the settings above
//! ```
//!
//! A container may be named several times, as long as the same is wanted of it each time.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};
use toml::Spanned;

use crate::container::passthrough::Method;
use crate::ctid::Ctid;
use crate::error::{Error, Result};
use crate::gpu::GpuAssignment;
use crate::recipe::document::{line_of, read_file};
use crate::recipe::{CudaMethod, Overrides, Userland};
use crate::selection::{self, LARGEST};

/// A fleet file, read.
#[derive(Debug, Clone)]
pub struct Fleet {
    origin: String,
    members: Vec<Member>,
}

/// One container of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Which container.
    pub ctid: Ctid,
    /// The line of the file where its entry begins.
    pub line: usize,
    /// What is wanted of it.
    pub wants: Wants,
}

/// What a fleet file says of a container; `None` is left to the command line, the environment, the
/// container's journal and the recipe.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wants {
    /// The recipe: a name, or a path that is relative to the current directory.
    pub recipe: Option<String>,
    /// The recipe's profile.
    pub profile: Option<String>,
    /// Its GPUs.
    pub gpus: Option<GpuAssignment>,
    /// How devices get inside.
    pub passthrough: Option<Method>,
    /// How the driver gets inside.
    pub userland: Option<Userland>,
    /// How CUDA gets inside.
    pub cuda: Option<CudaMethod>,
    /// Settings, each `key=value`; of a repeated key the last one counts.
    pub set: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "schema")]
    _schema: IgnoredAny,
    recipe: Option<String>,
    profile: Option<String>,
    gpus: Option<Spanned<Words>>,
    passthrough: Option<Method>,
    method: Option<Userland>,
    cuda: Option<CudaMethod>,
    #[serde(default)]
    set: Vec<Spanned<String>>,
    #[serde(default)]
    container: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: Spanned<Words>,
    recipe: Option<String>,
    profile: Option<String>,
    gpus: Option<Spanned<Words>>,
    passthrough: Option<Method>,
    method: Option<Userland>,
    cuda: Option<CudaMethod>,
    #[serde(default)]
    set: Vec<Spanned<String>>,
}

/// A number, a text, or a list of them.
struct Words(Vec<String>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(WordsVisitor { is_in_list: false })
    }
}

struct WordsVisitor {
    is_in_list: bool,
}

/// An element of a list, which is no list itself.
struct Word(String);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let words = deserializer.deserialize_any(WordsVisitor { is_in_list: true })?;
        Ok(Self(words.0.into_iter().next().unwrap_or_default()))
    }
}

impl<'de> Visitor<'de> for WordsVisitor {
    type Value = Words;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.is_in_list {
            true => "a number or a text",
            false => "a number, a text, or a list of them",
        })
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Words, E> {
        Ok(Words(vec![text.to_owned()]))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> std::result::Result<Words, E> {
        Ok(Words(vec![number.to_string()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Words, A::Error> {
        if self.is_in_list {
            return Err(A::Error::invalid_type(serde::de::Unexpected::Seq, &self));
        }
        let mut words = Vec::new();
        while let Some(Word(word)) = list.next_element()? {
            words.push(word);
        }
        Ok(Words(words))
    }
}

/// The file, for what its parts say of themselves.
struct Source<'a> {
    text: &'a str,
    origin: &'a str,
}

impl Source<'_> {
    fn line<T>(&self, spanned: &Spanned<T>) -> usize {
        line_of(self.text, spanned.span().start)
    }

    /// The error of a part of the file, as that of its line.
    fn at<T>(&self, spanned: &Spanned<T>) -> impl Fn(Error) -> Error {
        let what = format!("read `{}`, line {}", self.origin, self.line(spanned));
        move |error| error.within(what.clone())
    }

    fn gpus(&self, words: Option<&Spanned<Words>>) -> Result<Option<GpuAssignment>> {
        let Some(words) = words else { return Ok(None) };
        let list = words.get_ref().0.join(",");
        GpuAssignment::parse(&list).map(Some).map_err(self.at(words))
    }

    fn settings(&self, set: &[Spanned<String>]) -> Result<Vec<String>> {
        for setting in set {
            Overrides::from_settings(std::slice::from_ref(setting.get_ref()))
                .map_err(self.at(setting))?;
        }
        Ok(set.iter().map(|setting| setting.get_ref().clone()).collect())
    }

    /// A path is relative to the file.
    fn recipe(&self, recipe: Option<String>) -> Option<String> {
        let recipe = recipe?;
        let is_path = recipe.contains('/') || recipe.ends_with(".toml");
        let directory = Path::new(self.origin).parent().filter(|_| is_path);
        let Some(directory) = directory else { return Some(recipe) };
        Some(directory.join(&recipe).to_string_lossy().into_owned())
    }
}

impl Fleet {
    /// Reads a fleet file; `origin` is its path, `is_container` tells whether there is a container
    /// of a name that looks like a range.
    ///
    /// # Errors
    /// Invalid input that names the line, for a misspelled key with the nearest known one; also for
    /// a container of which different things are wanted.
    pub fn parse(text: &str, origin: &str, is_container: &dyn Fn(&Ctid) -> bool) -> Result<Self> {
        let file: File = read_file(text, &format!("`{origin}`"))?;
        let source = Source { text, origin };
        let defaults = Wants {
            recipe: source.recipe(file.recipe),
            profile: file.profile,
            gpus: source.gpus(file.gpus.as_ref())?,
            passthrough: file.passthrough,
            userland: file.method,
            cuda: file.cuda,
            set: source.settings(&file.set)?,
        };
        let mut fleet = Self { origin: origin.to_owned(), members: Vec::new() };
        for entry in file.container {
            fleet.add(&source, entry, &defaults, is_container)?;
        }
        if fleet.members.is_empty() {
            return Err(Error::input(format!("read `{origin}`: it names no container"))
                .hint("a container is `[[container]]` and `id = 101`"));
        }
        Ok(fleet)
    }

    fn add(
        &mut self,
        source: &Source<'_>,
        entry: Spanned<Entry>,
        defaults: &Wants,
        is_container: &dyn Fn(&Ctid) -> bool,
    ) -> Result<()> {
        let line = source.line(&entry.get_ref().id);
        let entry = entry.into_inner();
        let ids = &entry.id.get_ref().0;
        let ctids = selection::select(ids, is_container).map_err(source.at(&entry.id))?;
        if ctids.is_empty() {
            return Err(source.at(&entry.id)(Error::input("find a container in an empty list")));
        }
        let wants = Wants {
            recipe: source.recipe(entry.recipe).or_else(|| defaults.recipe.clone()),
            profile: entry.profile.or_else(|| defaults.profile.clone()),
            gpus: source.gpus(entry.gpus.as_ref())?.or_else(|| defaults.gpus.clone()),
            passthrough: entry.passthrough.or(defaults.passthrough),
            userland: entry.method.or(defaults.userland),
            cuda: entry.cuda.or(defaults.cuda),
            set: [defaults.set.clone(), source.settings(&entry.set)?].concat(),
        };
        for ctid in ctids {
            match self.members.iter().find(|member| member.ctid == ctid) {
                Some(member) if member.wants == wants => {}
                Some(member) => {
                    return Err(Error::input(format!("read `{}`", source.origin))
                        .because(format!(
                            "container {ctid} is named at line {} and at line {line}, \
                             and they want different things of it",
                            member.line
                        ))
                        .hint("name it once"));
                }
                None => self.members.push(Member { ctid, line, wants: wants.clone() }),
            }
        }
        if self.members.len() > LARGEST {
            return Err(Error::input(format!("read `{}`", source.origin))
                .because(format!("it names more than {LARGEST} containers")));
        }
        Ok(())
    }

    /// The named containers in the order in which they are named, or all in that of the file when
    /// none is.
    ///
    /// # Errors
    /// Invalid input for a container that is not in the file.
    pub fn select(&self, named: &[Ctid]) -> Result<Vec<&Member>> {
        if named.is_empty() {
            return Ok(self.members.iter().collect());
        }
        let find = |ctid: &Ctid| {
            self.members.iter().find(|member| member.ctid == *ctid).ok_or_else(|| {
                Error::input(format!("find it in `{}`: it is not there", self.origin)).on(ctid)
            })
        };
        named.iter().map(find).collect()
    }

    /// The error of what a member wants, as that of its line.
    pub fn at(&self, member: &Member, error: Error) -> Error {
        error.within(format!("follow `{}`, line {}", self.origin, member.line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Fleet> {
        Fleet::parse(text, "/etc/fleets/gpu.toml", &|_| false)
    }

    fn parsed(text: &str) -> Fleet {
        parse(&format!("schema = 1\n{text}")).unwrap()
    }

    #[track_caller]
    fn refused(text: &str, parts: &[&str]) {
        let error = parse(text).unwrap_err();
        assert_eq!(error.code(), crate::error::ExitCode::Input, "{error}");
        let shown = error.to_string();
        for part in parts.iter().chain(&["/etc/fleets/gpu.toml"]) {
            assert!(shown.contains(part), "{part:?} is not in:\n{shown}");
        }
    }

    const EXAMPLE: &str = "\
recipe = \"driver-only\"
gpus = \"all\"
set = [\"driver=580.76.05\"]
[[container]]
id = 101
gpus = 0
[[container]]
id = [102, \"105-107\", \"web\"]
recipe = \"mine/x.toml\"
profile = \"build\"
gpus = [0, \"0000:81:00.0\"]
passthrough = \"device\"
method = \"share\"
cuda = \"share\"
set = [\"packages=nvtop\"]
";

    #[test]
    fn what_a_container_does_not_say_is_taken_from_the_top() {
        let fleet = parsed(EXAMPLE);
        let names: Vec<&str> = fleet.members.iter().map(|member| member.ctid.as_str()).collect();
        assert_eq!(names, ["101", "102", "105", "106", "107", "web"]);
        let first = &fleet.members[0].wants;
        assert_eq!(first.recipe.as_deref(), Some("driver-only"));
        assert_eq!(first.gpus.as_ref().unwrap().to_string(), "0");
        assert_eq!(first.set, ["driver=580.76.05"]);
        assert_eq!((first.passthrough, first.userland, first.cuda), (None, None, None));
        let other = &fleet.members[1].wants;
        assert_eq!(other.gpus.as_ref().unwrap().to_string(), "0,0000:81:00.0");
        assert_eq!(other.set, ["driver=580.76.05", "packages=nvtop"]);
        assert_eq!(other.profile.as_deref(), Some("build"));
        assert_eq!(other.passthrough, Some(Method::Device));
        assert_eq!((other.userland, other.cuda), (Some(Userland::Share), Some(CudaMethod::Share)));
        assert_eq!(fleet.members[5].wants, *other);
    }

    #[test]
    fn the_path_of_a_recipe_is_relative_to_the_file() {
        let recipe = |text: &str| {
            let fleet = parsed(&format!("recipe = \"{text}\"\n[[container]]\nid = 101\n"));
            fleet.members[0].wants.recipe.clone().unwrap()
        };
        assert_eq!(recipe("mine.toml"), "/etc/fleets/mine.toml");
        assert_eq!(recipe("../x/mine.toml"), "/etc/fleets/../x/mine.toml");
        assert_eq!(recipe("/srv/mine.toml"), "/srv/mine.toml");
        assert_eq!(recipe("cuda-12-8"), "cuda-12-8");
    }

    #[test]
    fn named_containers_are_taken_in_their_order_and_must_be_there() {
        let fleet = parsed(EXAMPLE);
        let ctid = |text: &str| Ctid::parse(text).unwrap();
        let chosen = fleet.select(&[ctid("106"), ctid("101")]).unwrap();
        assert_eq!([&chosen[0].ctid, &chosen[1].ctid], [&ctid("106"), &ctid("101")]);
        assert_eq!(fleet.select(&[]).unwrap().len(), 6);
        let error = fleet.select(&[ctid("108")]).unwrap_err();
        assert!(error.to_string().contains("container 108: failed to find it in"), "{error}");
    }

    #[test]
    fn a_misspelled_key_is_named_with_its_line_and_the_nearest_one() {
        let text = "schema = 1\n[[container]]\nid = 101\nrecipie = \"x\"\n";
        refused(text, &["unknown key `recipie` at line 4", "did you mean `recipe`?"]);
        let text = "schema = 1\ngpu = \"all\"\n[[container]]\nid = 101\n";
        refused(text, &["unknown key `gpu` at line 2", "did you mean `gpus`?"]);
        let text = "schema = 1\n[[container]]\nid = 101\nmethod = \"shared\"\n";
        refused(text, &["unknown value `shared` at line 4", "did you mean `share`?"]);
    }

    #[test]
    fn a_value_of_a_wrong_type_is_named_with_its_line() {
        let with = |line: &str| format!("schema = 1\n[[container]]\nid = 101\n{line}\n");
        refused(&with("recipe = 7"), &["line 4", "expected a string"]);
        refused(&with("gpus = true"), &["line 4", "a number, a text, or a list of them"]);
        refused(&with("gpus = [[0]]"), &["line 4", "expected a number or a text"]);
        refused(&with("set = \"driver=host\""), &["line 4", "expected a sequence"]);
        refused("schema = 1\n[container]\nid = 101\n", &["line 2"]);
        refused("schema = 1\n[[container]]\ngpus = 0\n", &["missing field `id`"]);
        refused("schema = 1\n[[container]]\nid = 1.5\n", &["line 3", "a number, a text"]);
        refused("schema = 2\n", &["its schema is 2"]);
        refused("[[container]]\nid = 101\n", &["does not say `schema = 1`"]);
        refused("schema = 1\n[[container]\n", &["line 2"]);
        refused("schema = 1\n", &["it names no container"]);
    }

    #[test]
    fn a_value_that_cannot_be_meant_is_named_with_its_line() {
        let with = |line: &str| format!("schema = 1\n[[container]]\nid = 101\n{line}\n");
        refused(&with("gpus = \"x\""), &["line 4", "understand the GPU assignment `x`"]);
        refused(&with("set = [\"drvier=host\"]"), &["line 4", "did you mean `driver`?"]);
        let id = |id: &str| format!("schema = 1\n[[container]]\nid = {id}\n");
        refused(&id("\"110-105\""), &["line 3", "`110-105`", "before its beginning"]);
        refused(&id("[101, \"105-\"]"), &["line 3", "`105-`", "one end is missing"]);
        refused(&id("-5"), &["line 3", "`-5`"]);
        refused(&id("[]"), &["line 3", "an empty list"]);
        refused(&id("\"100-99999\""), &["line 3", "`100-99999`", "more than"]);
    }

    #[test]
    fn a_container_may_be_named_twice_if_the_same_is_wanted_of_it() {
        let twice = |more: &str| {
            let list = "[[container]]\nid = \"105-110\"\n[[container]]\nid = 107\n";
            format!("schema = 1\ngpus = \"all\"\n{list}{more}\n")
        };
        assert_eq!(parse(&twice("")).unwrap().members.len(), 6);
        assert_eq!(parse(&twice("gpus = \"all\"")).unwrap().members.len(), 6);
        let both = "container 107 is named at line 4 and at line 6";
        refused(&twice("recipe = \"driver-only\""), &[both, "different things"]);
        refused(&twice("gpus = 0"), &[both]);
    }
}
