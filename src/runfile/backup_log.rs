//! What `nvidia-installer` says it installed: `/var/lib/nvidia/log`.
//!
//! Line 1 is the version, line 2 a description, then entries, each a line `<number>: <path>` with
//! the lines that belong to it. Source: `backup.c` of NVIDIA/nvidia-installer.

use crate::version::DriverVersion;

/// Where the file lies in a container.
pub const PATH: &str = "/var/lib/nvidia/log";

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLog {
    /// The version that was installed; `None` when the first line names none.
    pub version: Option<DriverVersion>,
    /// The files it installed, as absolute paths.
    pub files: Vec<String>,
    /// The symbolic links it made.
    pub links: Vec<Link>,
    /// Files and links of others that it put away, by their former paths.
    pub put_away: Vec<String>,
}

/// A symbolic link that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its absolute path.
    pub path: String,
    /// What it points to.
    pub target: String,
}

/// The number of an entry for a link that was made.
const MADE_LINK: u32 = 0;
/// The number of an entry for a file that was installed.
const INSTALLED_FILE: u32 = 1;

impl BackupLog {
    /// Reads the whole file; what is not understood is left out.
    pub fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let version = lines
            .next()
            .and_then(|first| first.split_once('('))
            .and_then(|(_, rest)| rest.split_once(')'))
            .and_then(|(version, _)| DriverVersion::parse(version.trim()).ok());
        let mut log = Self { version, files: Vec::new(), links: Vec::new(), put_away: Vec::new() };
        let mut lines = lines.skip(1).peekable();
        while let Some(line) = lines.next() {
            let Some((number, path)) = entry(line) else { continue };
            match number {
                MADE_LINK => {
                    let target = lines.next_if(|next| entry(next).is_none()).unwrap_or_default();
                    log.links.push(Link { path: path.to_owned(), target: target.to_owned() });
                }
                INSTALLED_FILE => log.files.push(path.to_owned()),
                _ => log.put_away.push(path.to_owned()),
            }
        }
        log
    }

    /// Everything that was installed, files first.
    pub fn installed(&self) -> impl Iterator<Item = &str> {
        let links = self.links.iter().map(|link| link.path.as_str());
        self.files.iter().map(String::as_str).chain(links)
    }

    /// Whether a file or link of this path was installed.
    pub fn has(&self, path: &str) -> bool {
        self.installed().any(|installed| installed == path)
    }
}

fn entry(line: &str) -> Option<(u32, &str)> {
    let (number, path) = line.split_once(": ")?;
    path.starts_with('/').then_some(())?;
    Some((number.trim().parse().ok()?, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "1.0-53526103 (535.261.03)\nNVIDIA Accelerated Graphics Driver\n\
        2: /usr/lib/x86_64-linux-gnu/libcuda.so.1\nlibcuda.so.520.1\n0777\n\
        100: /usr/bin/nvidia-smi\n1234 0755 0 0\n\
        1: /usr/bin/nvidia-smi\n4006157711\n\
        1: /usr/lib/x86_64-linux-gnu/libcuda.so.535.261.03\n1180000\n\
        0: /usr/lib/x86_64-linux-gnu/libcuda.so.1\nlibcuda.so.535.261.03\n\
        0: /usr/bin/nvidia-uninstall\nnvidia-installer\n";

    #[test]
    fn files_links_and_what_was_put_away_are_told_apart() {
        let log = BackupLog::parse(LOG);
        assert!(log.has("/usr/bin/nvidia-uninstall") && !log.has("/usr/bin/other"));
        assert_eq!(log.version.unwrap().as_str(), "535.261.03");
        assert_eq!(log.files.len(), 2);
        assert_eq!(log.links[1].target, "nvidia-installer");
        assert_eq!(log.put_away, ["/usr/lib/x86_64-linux-gnu/libcuda.so.1", "/usr/bin/nvidia-smi"]);
    }

    #[test]
    fn a_log_cut_short_keeps_what_it_has() {
        let log = BackupLog::parse(&LOG[..LOG.len() - 18]);
        assert_eq!((log.files.len(), log.links.len()), (2, 2));
    }

    #[test]
    fn another_file_has_no_version() {
        assert_eq!(BackupLog::parse("").version, None);
        assert_eq!(BackupLog::parse("hello (world)\n").version, None);
    }
}
