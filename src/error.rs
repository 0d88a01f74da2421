//! The one error type, and the exit codes it leads to.
//!
//! An error says what was attempted, on which container, what happened and what to do about it.
//! Its text is a fragment that fits "failed to …"; the causes follow on lines of their own, then
//! the hints.

use std::fmt;

use serde::Serialize;

use crate::ctid::Ctid;

/// How the program ends. The numbers are the contract of the script that nvstage replaces,
/// [`ExitCode::Differs`] and [`ExitCode::Interrupted`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitCode {
    /// 0: done, or nothing to do.
    Done,
    /// 1: a general error, or containers that failed in different ways.
    General,
    /// 2: invalid input.
    Input,
    /// 3: the container was not found on this node.
    NotFound,
    /// 4: the host's configuration forbids it: missing device, locked or unwritable
    /// configuration, kernel module of another version.
    Host,
    /// 5: installing failed: download, verification, installer, apt, or a check afterwards.
    Install,
    /// 6: the container could not be stopped or started in time.
    Restart,
    /// 10: `plan` or `verify` found something that differs, `doctor` something that is wrong, or a
    /// restart is pending.
    Differs,
    /// 130: interrupted by a signal, as shells have it for SIGINT.
    Interrupted,
}

impl ExitCode {
    /// The number given to the caller.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::General => 1,
            Self::Input => 2,
            Self::NotFound => 3,
            Self::Host => 4,
            Self::Install => 5,
            Self::Restart => 6,
            Self::Differs => 10,
            Self::Interrupted => 130,
        }
    }

    /// The exit code for several containers: [`ExitCode::Interrupted`] where one was interrupted, the
    /// common one of those that failed, or [`ExitCode::General`] where they failed in different ways.
    pub fn combine(codes: impl IntoIterator<Item = Self>) -> Self {
        let mut result = Self::Done;
        for code in codes {
            result = match (result, code) {
                (Self::Interrupted, _) | (_, Self::Interrupted) => Self::Interrupted,
                (_, Self::Done) => result,
                (Self::Done, _) => code,
                (a, b) if a == b => a,
                (Self::Differs, b) => b,
                (a, Self::Differs) => a,
                _ => Self::General,
            };
        }
        result
    }
}

/// What went wrong, with everything a person needs to put it right.
#[derive(Debug, Clone)]
pub struct Error {
    code: ExitCode,
    container: Option<Ctid>,
    what: String,
    causes: Vec<String>,
    hints: Vec<String>,
    kind: Kind,
}

/// A URL; boxed, so that an error stays small.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Url(String);

/// What callers tell apart.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Failure,
    Interrupted,
    Offline(Box<Url>),
    Missing,
    Strangers,
}

impl Error {
    /// An error with the exit code `code`; `what` is a lower-case fragment without a full stop.
    pub fn new(code: ExitCode, what: impl Into<String>) -> Self {
        Self {
            code,
            container: None,
            what: what.into(),
            causes: Vec::new(),
            hints: Vec::new(),
            kind: Kind::Failure,
        }
    }

    /// A general error (exit code 1).
    pub fn general(what: impl Into<String>) -> Self {
        Self::new(ExitCode::General, what)
    }

    /// Invalid input (exit code 2).
    pub fn input(what: impl Into<String>) -> Self {
        Self::new(ExitCode::Input, what)
    }

    /// A container that is not there (exit code 3).
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::new(ExitCode::NotFound, what)
    }

    /// A host that is not configured for it (exit code 4).
    pub fn host(what: impl Into<String>) -> Self {
        Self::new(ExitCode::Host, what)
    }

    /// A failed download, verification or installation (exit code 5).
    pub fn install(what: impl Into<String>) -> Self {
        Self::new(ExitCode::Install, what)
    }

    /// A container that did not stop or start (exit code 6).
    pub fn restart(what: impl Into<String>) -> Self {
        Self::new(ExitCode::Restart, what)
    }

    /// A network connection that an offline run would have needed (exit code 5). `url` has no
    /// password in it.
    pub fn offline(url: &str) -> Self {
        let mut error = Self::install(format!("open `{url}`: no network is used with --offline"))
            .hint("`nvstage prefetch` on a host with network fetches it, `nvstage bundle` carries it here");
        error.kind = Kind::Offline(Box::new(Url(url.to_owned())));
        error
    }

    /// A signed text that none of the pinned keys signed (exit code 5): somebody else's, not a
    /// changed one.
    pub fn by_strangers(what: impl Into<String>) -> Self {
        let mut error = Self::install(what);
        error.kind = Kind::Strangers;
        error
    }

    /// The work was interrupted by a signal (exit code 130).
    pub fn interrupted() -> Self {
        let mut error = Self::new(ExitCode::Interrupted, "finish: interrupted by a signal")
            .hint("run the same command again: it continues where this one stopped");
        error.kind = Kind::Interrupted;
        error
    }

    /// Adds the cause: one line of its own below the message.
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Names the container it happened on, unless one is named already.
    #[must_use]
    pub fn on(mut self, ctid: &Ctid) -> Self {
        self.container.get_or_insert_with(|| ctid.clone());
        self
    }

    /// The exit code it leads to.
    pub fn code(&self) -> ExitCode {
        self.code
    }

    /// Whether it stands for SIGINT or SIGTERM rather than for a failure.
    pub fn is_interrupted(&self) -> bool {
        self.kind == Kind::Interrupted
    }

    /// Whether it stands for a text that somebody else signed.
    pub fn is_by_strangers(&self) -> bool {
        self.kind == Kind::Strangers
    }

    /// The same failure as the cause of a larger one; `what` is the larger one's text.
    #[must_use]
    pub fn within(mut self, what: impl Into<String>) -> Self {
        let inner = std::mem::replace(&mut self.what, what.into());
        self.causes.insert(0, format!("failed to {inner}"));
        self
    }

    /// The same, marked as about a file that no URL has.
    #[must_use]
    pub fn of_missing(mut self) -> Self {
        self.kind = Kind::Missing;
        self
    }

    /// Whether it stands for a file that no URL has.
    pub fn is_of_missing(&self) -> bool {
        self.kind == Kind::Missing
    }

    /// The URL that an offline run would have needed.
    pub fn offline_url(&self) -> Option<&str> {
        match &self.kind {
            Kind::Offline(url) => Some(&url.0),
            _ => None,
        }
    }

    /// The first line, with the container before it.
    pub fn headline(&self) -> String {
        match &self.container {
            Some(ctid) => format!("container {ctid}: failed to {}", self.what),
            None => format!("failed to {}", self.what),
        }
    }

    /// The message without the container.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The causes, outermost first.
    pub fn causes(&self) -> &[String] {
        &self.causes
    }

    /// What to do, most promising first.
    pub fn hints(&self) -> &[String] {
        &self.hints
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.headline())?;
        for cause in &self.causes {
            write!(f, "\n  caused by: {}", cause.replace('\n', "\n    "))?;
        }
        for hint in &self.hints {
            write!(f, "\n  hint: {}", hint.replace('\n', "\n    "))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// The result of everything that can fail here.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_failures_combine_to_the_general_code() {
        use ExitCode::*;
        assert_eq!(ExitCode::combine([Done, Done]), Done);
        assert_eq!(ExitCode::combine([Done, Host, Host]), Host);
        assert_eq!(ExitCode::combine([Host, Install]), General);
        assert_eq!(ExitCode::combine([Differs, Install]), Install);
        assert_eq!(ExitCode::combine([Differs, Done]), Differs);
        assert_eq!(ExitCode::combine([Install, Interrupted, Host]), Interrupted);
    }

    #[test]
    fn an_error_names_the_container_then_causes_then_hints() {
        let error = Error::host("do it").because("no disk").hint("buy one");
        let error = error.on(&Ctid::parse("201").unwrap());
        let text = "container 201: failed to do it\n  caused by: no disk\n  hint: buy one";
        assert_eq!(error.to_string(), text);
    }
}
