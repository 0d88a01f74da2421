//! Imports go down only: the floors of `src/lib.rs` hold.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests are the world around the program"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Top-level modules by floor. Within floor 3 the order is fetch < cache < runtime.
const FLOORS: &[(u32, &[&str])] = &[
    (
        0,
        &[
            "answer",
            "architecture",
            "ctid",
            "digest",
            "error",
            "event",
            "fingerprint",
            "selection",
            "shell",
            "version",
        ],
    ),
    (
        10,
        &[
            "apt",
            "artifact",
            "container",
            "diff",
            "doctor",
            "facts",
            "fleet",
            "gpu",
            "journal",
            "lock",
            "openpgp",
            "phoenix",
            "plan",
            "recipe",
            "remedy",
            "report",
            "runfile",
        ],
    ),
    (20, &["host"]),
    (30, &["fetch"]),
    (31, &["cache"]),
    (32, &["runtime"]),
    (40, &["engine"]),
    (50, &["cmd"]),
    (60, &["cli", "phoenix_log", "printer"]),
];

fn floors() -> BTreeMap<&'static str, u32> {
    FLOORS.iter().flat_map(|(floor, names)| names.iter().map(|name| (*name, *floor))).collect()
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        if entry.path().is_dir() {
            sources(&entry.path(), found);
        } else if entry.path().extension().is_some_and(|extension| extension == "rs") {
            found.push(entry.path());
        }
    }
}

/// The modules named after `crate::` in a source, `use crate::{a, b::c}` included.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (position, _) in text.match_indices("crate::") {
        let rest = &text[position + "crate::".len()..];
        let group = rest.strip_prefix('{').and_then(|rest| rest.split('}').next());
        for part in group.unwrap_or(rest).split(',').take(if group.is_some() { 99 } else { 1 }) {
            let name: String = part
                .trim_start()
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            found.push(name);
        }
    }
    found
}

#[test]
fn imports_go_down_only() {
    let floors = floors();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 20, "the sources were not found");
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let first = relative.iter().next().unwrap().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        if matches!(module, "lib" | "main") {
            continue;
        }
        let Some(own) = floors.get(module) else {
            panic!("`{module}` has no floor in tests/floors.rs");
        };
        let text = std::fs::read_to_string(&file).unwrap();
        for import in imports(&text) {
            match floors.get(import.as_str()) {
                Some(floor) if floor <= own => {}
                Some(_) => wrong.push(format!("{} imports `{import}`", relative.display())),
                None => wrong.push(format!("{}: unknown `crate::{import}`", relative.display())),
            }
        }
    }
    assert!(wrong.is_empty(), "upward imports:\n{}", wrong.join("\n"));
}

#[test]
fn the_import_reader_sees_groups_and_single_imports() {
    let text = "use crate::error::Error;\nuse crate::{host::Host, plan};\ncrate::gpu::x()";
    assert_eq!(imports(text), ["error", "host", "plan", "gpu"]);
}

#[test]
fn every_source_says_what_it_is() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//!"), "{} has no //! at its head", file.display());
    }
}
