//! Recipes by their names: shipped ones, files of the administrator's, and the copies in journals.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::Context;
use crate::ctid::Ctid;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::journal::Journal;
use crate::recipe::Recipe;
use crate::remedy;

/// Which content of a container's recipe counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecipeContent {
    /// The file's.
    Present,
    /// The copy's in the container's journal: what the container was provisioned with.
    Kept,
}

/// The recipes of a run, each file read once.
#[derive(Debug)]
pub struct RecipeFiles<'a> {
    context: &'a Context<'a>,
    read: Mutex<BTreeMap<String, Option<Recipe>>>,
}

impl<'a> RecipeFiles<'a> {
    /// None read yet.
    pub fn new(context: &'a Context<'a>) -> Self {
        Self { context, read: Mutex::default() }
    }

    /// The recipe of a name, or of a file by its path.
    ///
    /// # Errors
    /// Invalid input.
    pub fn load(&self, name: &str) -> Result<Recipe> {
        self.find(name)?.ok_or_else(|| {
            let what =
                format!("read the recipe `{name}`: there is no such recipe, and no such file");
            let known = Recipe::shipped_names().join(", ");
            Error::input(what).hint(format!("shipped recipes: {known}"))
        })
    }

    /// The recipe that a container was provisioned with. That its file has gone or changed is told.
    ///
    /// # Errors
    /// Invalid input for a recipe that cannot be read.
    pub fn of_journal(&self, journal: &Journal, content: RecipeContent) -> Result<Recipe> {
        let (ctid, name) = (&journal.container, journal.recipe.as_str());
        let kept = journal.recipe_text.as_deref();
        let present = match (self.find(name), kept, content) {
            (Ok(Some(recipe)), ..) => recipe,
            (Ok(None), Some(text), _) => {
                let recipe = Recipe::parse(text, name)?;
                self.tell_gone(ctid, name);
                return Ok(recipe);
            }
            // What a file says now does not matter here.
            (Err(_), Some(text), RecipeContent::Kept) => return Recipe::parse(text, name),
            (Ok(None), None, _) => return self.load(name),
            (Err(error), ..) => return Err(error),
        };
        let Some(text) = kept.filter(|text| *text != present.text()) else { return Ok(present) };
        match (content, Recipe::parse(text, name)) {
            (RecipeContent::Kept, Ok(kept)) => {
                self.note(format!(
                    "container {ctid}: its recipe `{name}` has changed since: the copy in its \
                     journal is used, `{}` applies the change",
                    remedy::provision(ctid)
                ));
                Ok(kept)
            }
            // A copy of another version's form says nothing.
            (RecipeContent::Kept, Err(_)) => Ok(present),
            (RecipeContent::Present, _) => {
                self.note(format!(
                    "container {ctid}: its recipe `{name}` has changed since it was provisioned: \
                     the recipe as it is now is used"
                ));
                Ok(present)
            }
        }
    }

    /// `None` where there is none of that name.
    fn find(&self, name: &str) -> Result<Option<Recipe>> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = read.get(name) {
            return Ok(known.clone());
        }
        let found = self.look_up(name)?;
        read.insert(name.to_owned(), found.clone());
        Ok(found)
    }

    fn look_up(&self, name: &str) -> Result<Option<Recipe>> {
        let is_path = name.contains('/') || name.ends_with(".toml");
        // The administrator's own comes before a shipped one of the same name.
        let own = self.context.host.paths.recipes().join(format!("{name}.toml"));
        let path = match !is_path && own.exists() {
            true => own,
            false => PathBuf::from(name),
        };
        if !is_path
            && path == Path::new(name)
            && let Some(recipe) = Recipe::shipped(name)
        {
            return recipe.map(Some);
        }
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| {
                Error::input(format!("read the recipe `{name}`")).because(error)
            })?,
        };
        // Written down by its whole path: `sync` is called from somewhere else.
        let path = std::path::absolute(&path).unwrap_or(path);
        Recipe::parse(&text, &path.to_string_lossy()).map(Some)
    }

    fn tell_gone(&self, ctid: &Ctid, name: &str) {
        let text = format!(
            "container {ctid}: its recipe `{name}` is gone: the copy in its journal is used"
        );
        self.context.events.emit(Event::Warning { text });
    }

    fn note(&self, text: String) {
        self.context.events.emit(Event::Note { text });
    }
}
