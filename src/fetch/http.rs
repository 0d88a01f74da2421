//! One HTTP request: what is asked, what the answer's head means, and the body as it comes.
//!
//! A thread of its own talks to the server and hands over buffers, so that hashing and writing
//! overlap with receiving and a request to stop is noticed while the server is silent.

use std::io::Read;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::{Duration, Instant};

use reqwest::blocking::{Client, Response};
use reqwest::{header, redirect};

use super::download::Download;
use super::failure::{Attempt, Failure, chain};
use crate::error::Error;
use crate::host::cancel::Cancel;

/// Bytes in one buffer; as many buffers as [`QUEUE`] and two more are in use.
const BUFFER: usize = 512 * 1024;
/// Buffers that may wait for the disk.
const QUEUE: usize = 4;
/// Fewer bytes than a full buffer are handed over after this time.
const HAND_OVER: Duration = Duration::from_millis(100);
/// Connecting takes no longer than this, or than the stall limit.
const CONNECT: Duration = Duration::from_secs(10);

/// Whether a URL is asked to continue at a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ranges {
    Allowed,
    /// Its server answered a range with nonsense.
    Avoided,
}

/// A request.
pub(super) struct Request<'a> {
    pub(super) client: Client,
    pub(super) url: &'a str,
    pub(super) cancel: &'a Cancel,
}

/// A client that lets a server be silent for `stall`.
pub(super) fn client(stall: Duration) -> Attempt<Client> {
    // An error means that the process has a provider already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let no_downgrade = redirect::Policy::custom(|attempt| {
        let was_secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
        if was_secure && attempt.url().scheme() != "https" {
            attempt.error("the server redirects from https to plain http")
        } else if attempt.previous().len() > 10 {
            attempt.error("the server redirects more than ten times")
        } else {
            attempt.follow()
        }
    });
    Client::builder()
        .user_agent(concat!("nvstage/", env!("CARGO_PKG_VERSION")))
        .timeout(stall)
        .connect_timeout(stall.min(CONNECT))
        .redirect(no_downgrade)
        .build()
        .map_err(|error| Error::host("set up HTTPS").because(chain(&error)).into())
}

/// Sends a request and adds the answer's body to the download.
pub(super) fn get(
    request: Request<'_>,
    download: &mut Download<'_>,
    ranges: &mut Ranges,
) -> Attempt<()> {
    if *ranges == Ranges::Avoided {
        download.restart()?;
    }
    let from = download.length();
    let transfer = Transfer::start(request, from);
    let head = transfer.head()?;
    match accept(&head, from)? {
        Answer::Whole => {
            if from > 0 {
                download.restart()?;
            }
            download.announce(head.length)?;
        }
        Answer::Rest { total } => download.announce(total)?,
        Answer::Complete => return Ok(()),
        Answer::BadRange(why) => {
            *ranges = Ranges::Avoided;
            return Err(Failure::passing(why));
        }
    }
    while let Some(chunk) = transfer.chunk()? {
        download.write(&chunk)?;
        transfer.give_back(chunk);
    }
    download.check_complete()
}

/// What an answer's head says that matters here.
#[derive(Debug, Default)]
struct Head {
    status: u16,
    length: Option<u64>,
    range: Option<String>,
    kind: String,
    retry_after: Option<Duration>,
}

/// What the body is.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// The file from its start.
    Whole,
    /// The bytes from where we asked.
    Rest { total: Option<u64> },
    /// Nothing: all bytes are here already.
    Complete,
    /// Not what was asked.
    BadRange(String),
}

fn accept(head: &Head, from: u64) -> Attempt<Answer> {
    let status = head.status;
    match status {
        200 | 206 if head.kind.starts_with("text/html") => Err(Failure::Lasting(
            "the server sends a web page instead of the file (a proxy or login page?)".to_owned(),
        )),
        200 => Ok(Answer::Whole),
        206 | 416 => Ok(range_answer(head, from)),
        408 | 429 | 500..=599 => {
            let why = format!("the server answers {status} {}", reason(status));
            Err(Failure::Passing { why, wait: head.retry_after })
        }
        404 | 410 => {
            Err(Failure::Missing(format!("the server answers {status} {}", reason(status))))
        }
        _ => Err(Failure::Lasting(format!("the server answers {status} {}", reason(status)))),
    }
}

fn range_answer(head: &Head, from: u64) -> Answer {
    let text = head.range.as_deref().unwrap_or_default();
    let parsed = ContentRange::parse(text);
    match (head.status, parsed) {
        (206, Some(ContentRange { start: Some(start), total })) if start == from => {
            Answer::Rest { total }
        }
        (416, Some(ContentRange { start: None, total: Some(total) })) if total == from => {
            Answer::Complete
        }
        (status, _) => Answer::BadRange(format!(
            "the server was asked for bytes from {from} and answers {status} with `{text}`"
        )),
    }
}

/// `bytes <start>-<end>/<total>`, each of the numbers possibly missing (RFC 9110, 14.4).
#[derive(Debug, PartialEq, Eq)]
struct ContentRange {
    start: Option<u64>,
    total: Option<u64>,
}

impl ContentRange {
    fn parse(text: &str) -> Option<Self> {
        let (range, total) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
        let start = range.split_once('-').and_then(|(start, _)| start.parse().ok());
        Some(Self { start, total: total.parse().ok() })
    }
}

fn reason(status: u16) -> String {
    let known = reqwest::StatusCode::from_u16(status).ok().and_then(|code| code.canonical_reason());
    known.unwrap_or_default().to_owned()
}

enum Message {
    Head(Head),
    Chunk(Vec<u8>),
    End,
    Failed(Failure),
}

/// The thread that talks to the server, seen from here.
struct Transfer<'a> {
    messages: Receiver<Message>,
    used: Sender<Vec<u8>>,
    cancel: &'a Cancel,
}

impl<'a> Transfer<'a> {
    fn start(request: Request<'a>, from: u64) -> Self {
        let (send, messages) = mpsc::sync_channel(QUEUE);
        let (used, empty) = mpsc::channel();
        let Request { client, url, cancel } = request;
        let url = url.to_owned();
        // Not joined: it ends at the latest when the server was silent for the stall limit.
        std::thread::spawn(move || {
            let last = match talk(&client, (&url, from), (&send, &empty)) {
                Ok(()) => Message::End,
                Err(failure) => Message::Failed(failure),
            };
            let _ = send.send(last);
        });
        Self { messages, used, cancel }
    }

    fn next(&self) -> Attempt<Message> {
        loop {
            self.cancel.check()?;
            match self.messages.recv_timeout(HAND_OVER) {
                Ok(Message::Failed(failure)) => return Err(failure),
                Ok(message) => return Ok(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::passing("the transfer broke off"));
                }
            }
        }
    }

    fn head(&self) -> Attempt<Head> {
        match self.next()? {
            Message::Head(head) => Ok(head),
            _ => Err(Failure::passing("the server sent no answer")),
        }
    }

    fn chunk(&self) -> Attempt<Option<Vec<u8>>> {
        match self.next()? {
            Message::Chunk(bytes) => Ok(Some(bytes)),
            _ => Ok(None),
        }
    }

    /// Lets the thread use a buffer again.
    fn give_back(&self, buffer: Vec<u8>) {
        let _ = self.used.send(buffer);
    }
}

/// The thread's part. It also ends when nobody listens any more.
fn talk(
    client: &Client,
    (url, from): (&str, u64),
    (send, empty): (&SyncSender<Message>, &Receiver<Vec<u8>>),
) -> Attempt<()> {
    let mut request = client.get(url);
    if from > 0 {
        request = request.header(header::RANGE, format!("bytes={from}-"));
    }
    let mut response = request.send().map_err(|error| connection_failure(&error.without_url()))?;
    if send.send(Message::Head(read_head(&response))).is_err() {
        return Ok(());
    }
    loop {
        let mut buffer = empty.try_recv().unwrap_or_default();
        buffer.resize(BUFFER, 0);
        let (count, end) = fill(&mut response, &mut buffer);
        buffer.truncate(count);
        if count > 0 && send.send(Message::Chunk(buffer)).is_err() {
            return Ok(());
        }
        if let Some(end) = end {
            return end;
        }
    }
}

/// Reads until the buffer is full or some time has passed; also says how the body ended.
fn fill(response: &mut Response, buffer: &mut [u8]) -> (usize, Option<Attempt<()>>) {
    let began = Instant::now();
    let mut count = 0;
    while count < buffer.len() && (count == 0 || began.elapsed() < HAND_OVER) {
        match response.read(&mut buffer[count..]) {
            Ok(0) => return (count, Some(Ok(()))),
            Ok(more) => count += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return (count, Some(Err(body_failure(&error)))),
        }
    }
    (count, None)
}

fn read_head(response: &Response) -> Head {
    let text = |name| {
        let value = response.headers().get(name)?;
        value.to_str().ok().map(|text| text.trim().to_owned())
    };
    Head {
        status: response.status().as_u16(),
        length: text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok()),
        range: text(header::CONTENT_RANGE),
        kind: text(header::CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase(),
        retry_after: text(header::RETRY_AFTER).and_then(|text| retry_after(&text)),
    }
}

/// Seconds or a date (RFC 9110, 10.2.3).
fn retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?;
    date.timestamp().duration_since(jiff::Timestamp::now()).try_into().ok()
}

fn connection_failure(error: &reqwest::Error) -> Failure {
    let text = chain(error);
    let lasting = error.is_builder() || error.is_redirect() || text.contains("certificate");
    match lasting {
        true => Failure::Lasting(text),
        false if error.is_timeout() => Failure::passing("the server does not answer in time"),
        false => Failure::passing(text),
    }
}

fn body_failure(error: &std::io::Error) -> Failure {
    let text = chain(error);
    if text.contains("timed out") {
        return Failure::passing("the server stopped sending");
    }
    Failure::passing(format!("the transfer broke off: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16, range: &str) -> Head {
        Head { status, range: Some(range.to_owned()), ..Head::default() }
    }

    #[test]
    fn a_range_must_continue_where_we_asked() {
        let rest = accept(&head(206, "bytes 10-99/100"), 10).unwrap();
        assert_eq!(rest, Answer::Rest { total: Some(100) });
        for wrong in ["bytes 0-99/100", "bytes 11-99/100", "", "lines 10-99/100"] {
            let answer = accept(&head(206, wrong), 10).unwrap();
            assert!(matches!(answer, Answer::BadRange(_)), "{wrong}");
        }
    }

    #[test]
    fn a_range_past_the_end_means_complete_when_the_sizes_agree() {
        assert_eq!(accept(&head(416, "bytes */10"), 10).unwrap(), Answer::Complete);
        assert!(matches!(accept(&head(416, "bytes */9"), 10).unwrap(), Answer::BadRange(_)));
        assert!(matches!(accept(&head(416, ""), 10).unwrap(), Answer::BadRange(_)));
    }

    #[test]
    fn a_date_is_a_time_to_wait() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Tue, 15 Nov 1994 08:12:31 GMT"), None);
        assert!(retry_after("Fri, 31 Dec 2049 23:59:59 GMT").unwrap() > Duration::from_secs(60));
        assert_eq!(retry_after("soon"), None);
    }
}
