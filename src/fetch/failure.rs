//! Why an attempt failed, and whether trying again makes sense.

use std::fmt;
use std::time::Duration;

use crate::error::Error;

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may go better next time; `wait` is what the server asked for.
    Passing { why: String, wait: Option<Duration> },
    /// This URL will not do.
    Lasting(String),
    /// There is no such file behind this URL.
    Missing(String),
    /// Behind this URL is another file than the wanted one.
    Wrong(String),
    /// Bytes kept from before were wrong; they are dropped already.
    Stale(String),
    /// No URL will do: the disk is full, or the work is to stop.
    Fatal(Box<Error>),
}

/// The result of an attempt.
pub(super) type Attempt<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(super) fn passing(why: impl Into<String>) -> Self {
        Self::Passing { why: why.into(), wait: None }
    }
}

impl Failure {
    /// What to do about it, for a URL of the network or of this machine.
    pub(super) fn hint(&self, place: Place) -> &'static str {
        match (self, place) {
            (Self::Missing(_), Place::Machine) => "check the path",
            (Self::Missing(_), Place::Network) => "check the URL",
            (Self::Wrong(_) | Self::Stale(_), _) => {
                "the source has another file under this name: check it, or what is pinned"
            }
            (_, Place::Machine) => "check the file, and who may read it",
            (_, Place::Network) => "check the network, the proxy and the URL",
        }
    }
}

/// Where a URL leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// To this machine.
    Machine,
    /// To a server.
    Network,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Fatal(Box::new(error))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passing { why, .. }
            | Self::Lasting(why)
            | Self::Missing(why)
            | Self::Wrong(why)
            | Self::Stale(why) => f.write_str(why),
            Self::Fatal(error) => error.fmt(f),
        }
    }
}

/// An error and its sources in one line, each said once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    text
}

/// A URL without the user and password it may hold.
pub(super) fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((secret, _)) => format!("{scheme}://{}", &rest[secret.len() + 1..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(shown("https://user:secret@host/a@b"), "https://host/a@b");
        assert_eq!(shown("https://host/a@b"), "https://host/a@b");
        assert_eq!(shown("/local/path"), "/local/path");
    }
}
