//! A web server that misbehaves as told: HTTP/1.1, one request a connection, faults by path and in
//! order. It also answers as a proxy, since it takes absolute request targets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    reason = "a test ends where it is surprised"
)]

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// What one answer does instead of serving the file well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: the file is served well.
    Normal,
    /// Only this status.
    Status(u16),
    /// This status, and a wish to be asked again after so many seconds.
    RetryAfter(u16, u64),
    /// So many bytes of the body, then silence.
    StallAfter(usize),
    /// So many bytes of the body, then a reset connection.
    ResetAfter(usize),
    /// So many bytes of the body although more were announced, then an orderly end.
    TruncateAfter(usize),
    /// The file and so many bytes more, without an announced length.
    Longer(usize),
    /// An announced length that is greater by so much.
    AnnounceMore(u64),
    /// A web page with status 200.
    WebPage,
    /// A redirect to this URL.
    Redirect(String),
    /// Status 206 for another range than the one that was asked for.
    WrongRange,
}

/// One request that came.
#[derive(Debug, Clone)]
pub struct Request {
    /// The request target as sent: a path, or a URL to a proxy.
    pub target: String,
    /// The `Range` header.
    pub range: Option<String>,
}

#[derive(Default)]
struct Files {
    contents: HashMap<String, Arc<Vec<u8>>>,
    directory: Option<PathBuf>,
    faults: HashMap<String, VecDeque<Fault>>,
    without_ranges: bool,
    requests: Vec<Request>,
}

#[derive(Default)]
struct State {
    files: Mutex<Files>,
    bytes: AtomicU64,
}

/// A running server; its threads end with the process.
pub struct Server {
    base: String,
    state: Arc<State>,
}

impl Server {
    /// A server on a free port of 127.0.0.1.
    pub fn start() -> Self {
        Self::bind("127.0.0.1:0", None)
    }

    /// A server on that address and port.
    pub fn at(address: &str) -> Self {
        Self::bind(address, None)
    }

    /// A server with TLS and a certificate of `authority` for 127.0.0.1.
    pub fn with_tls(authority: &Authority) -> Self {
        Self::bind("127.0.0.1:0", Some(authority.server()))
    }

    fn bind(address: &str, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let base = format!("{scheme}://{}", listener.local_addr().unwrap());
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, tls) = (Arc::clone(&shared), tls.clone());
                std::thread::spawn(move || {
                    // A client that goes away is no fault of the server.
                    let _ = serve(stream, tls, &state);
                });
            }
        });
        Self { base, state }
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.state.files.lock().unwrap()
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Serves bytes at a path; returns the URL.
    pub fn file(&self, path: &str, content: &[u8]) -> String {
        self.files().contents.insert(path.to_owned(), Arc::new(content.to_vec()));
        self.url(path)
    }

    /// Serves the files below a directory.
    pub fn directory(&self, directory: impl Into<PathBuf>) {
        self.files().directory = Some(directory.into());
    }

    /// The next answers for a path misbehave like this, in order; later ones are normal.
    pub fn faults(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        self.files().faults.entry(path.to_owned()).or_default().extend(faults);
    }

    /// Ignores `Range` from now on.
    pub fn ignore_ranges(&self) {
        self.files().without_ranges = true;
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.files().requests.clone()
    }

    /// Bytes of bodies sent so far.
    pub fn bytes_sent(&self) -> u64 {
        self.state.bytes.load(Ordering::Relaxed)
    }
}

trait Connection: Read + Write {}
impl<T: Read + Write> Connection for T {}

fn serve(
    stream: TcpStream,
    tls: Option<Arc<rustls::ServerConfig>>,
    state: &State,
) -> io::Result<()> {
    let raw = stream.try_clone()?;
    let mut connection: Box<dyn Connection> = match tls {
        None => Box::new(stream),
        Some(config) => {
            let session = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
            Box::new(rustls::StreamOwned::new(session, stream))
        }
    };
    let request = read_request(&mut connection)?;
    let path = path_of(&request.target).to_owned();
    let (content, fault, ranges) = {
        let mut files = state.files.lock().unwrap();
        files.requests.push(request.clone());
        let fault = files.faults.get_mut(&path).and_then(VecDeque::pop_front);
        (find(&files, &path), fault.unwrap_or(Fault::Normal), !files.without_ranges)
    };
    let range = request.range.as_deref().filter(|_| ranges).and_then(start_of);
    let mut answer = Answer { connection, raw, state };
    match content {
        None if fault == Fault::Normal => answer.only_head("404 Not Found", ""),
        content => answer.with_fault(&content.unwrap_or_default(), range, &fault),
    }
}

fn read_request(connection: &mut Box<dyn Connection>) -> io::Result<Request> {
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut range = None;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            return Ok(Request { target, range });
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("range")
        {
            range = Some(value.trim().to_owned());
        }
    }
}

fn path_of(target: &str) -> &str {
    // A query tells caches apart, not files.
    let target = target.split('?').next().unwrap_or(target);
    match target.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => target,
    }
}

fn find(files: &Files, path: &str) -> Option<Arc<Vec<u8>>> {
    files.contents.get(path).cloned().or_else(|| {
        let directory = files.directory.as_ref()?;
        let plain = !path.split('/').any(|part| part == "..");
        plain
            .then(|| std::fs::read(directory.join(path.trim_start_matches('/'))).ok())?
            .map(Arc::new)
    })
}

fn start_of(range: &str) -> Option<usize> {
    range.strip_prefix("bytes=")?.split('-').next()?.parse().ok()
}

struct Answer<'a> {
    connection: Box<dyn Connection>,
    raw: TcpStream,
    state: &'a State,
}

impl Answer<'_> {
    fn only_head(&mut self, status: &str, headers: &str) -> io::Result<()> {
        self.head(status, &format!("Content-Length: 0\r\n{headers}"))?;
        self.connection.flush()
    }

    fn head(&mut self, status: &str, headers: &str) -> io::Result<()> {
        write!(self.connection, "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n")
    }

    fn body(&mut self, bytes: &[u8]) -> io::Result<()> {
        for chunk in bytes.chunks(256 * 1024) {
            self.connection.write_all(chunk)?;
            self.state.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
        self.connection.flush()
    }

    /// The head of a good answer, and the bytes that belong to it.
    fn good_head<'b>(
        &mut self,
        content: &'b [u8],
        from: Option<usize>,
        more: u64,
    ) -> io::Result<&'b [u8]> {
        let total = content.len();
        match from {
            Some(from) if from < total => {
                let rest = &content[from..];
                let headers = format!(
                    "Content-Length: {}\r\nContent-Range: bytes {from}-{}/{total}\r\n",
                    rest.len() as u64 + more,
                    total - 1
                );
                self.head("206 Partial Content", &headers)?;
                Ok(rest)
            }
            Some(_) => {
                let headers = format!("Content-Length: 0\r\nContent-Range: bytes */{total}\r\n");
                self.head("416 Range Not Satisfiable", &headers)?;
                Ok(&[])
            }
            None => {
                self.head("200 OK", &format!("Content-Length: {}\r\n", total as u64 + more))?;
                Ok(content)
            }
        }
    }

    fn with_fault(&mut self, content: &[u8], from: Option<usize>, fault: &Fault) -> io::Result<()> {
        match fault {
            Fault::Normal => {
                let body = self.good_head(content, from, 0)?;
                self.body(body)
            }
            Fault::Status(status) => self.only_head(&format!("{status} Fault"), ""),
            Fault::RetryAfter(status, seconds) => {
                self.only_head(&format!("{status} Fault"), &format!("Retry-After: {seconds}\r\n"))
            }
            Fault::Redirect(url) => self.only_head("302 Found", &format!("Location: {url}\r\n")),
            Fault::WebPage => {
                let page = b"<!DOCTYPE html><html><body>Please log in</body></html>";
                let headers = format!(
                    "Content-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n",
                    page.len()
                );
                self.head("200 OK", &headers)?;
                self.body(page)
            }
            Fault::Longer(more) => {
                self.head("200 OK", "")?;
                self.body(content)?;
                self.body(&vec![b'x'; *more])
            }
            Fault::AnnounceMore(more) => {
                let body = self.good_head(content, from, *more)?;
                self.body(body)
            }
            Fault::WrongRange => {
                let headers = format!(
                    "Content-Length: {0}\r\nContent-Range: bytes 0-{1}/{0}\r\n",
                    content.len(),
                    content.len().saturating_sub(1)
                );
                self.head("206 Partial Content", &headers)?;
                self.body(content)
            }
            Fault::StallAfter(count) | Fault::ResetAfter(count) | Fault::TruncateAfter(count) => {
                let body = self.good_head(content, from, 0)?;
                self.body(&body[..body.len().min(*count)])?;
                self.break_off(fault)
            }
        }
    }

    fn break_off(&mut self, fault: &Fault) -> io::Result<()> {
        match fault {
            Fault::StallAfter(_) => {
                std::thread::park_timeout(Duration::from_secs(60));
                Ok(())
            }
            Fault::ResetAfter(_) => {
                // Let the bytes arrive: a reset throws away what waits on either side.
                std::thread::park_timeout(Duration::from_millis(200));
                let linger = libc::linger { l_onoff: 1, l_linger: 0 };
                // SAFETY: the descriptor is open, and the option's value is a `linger` of its size.
                let result = unsafe {
                    libc::setsockopt(
                        self.raw.as_raw_fd(),
                        libc::SOL_SOCKET,
                        libc::SO_LINGER,
                        (&raw const linger).cast(),
                        size_of::<libc::linger>() as libc::socklen_t,
                    )
                };
                if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
            }
            _ => self.raw.shutdown(std::net::Shutdown::Both),
        }
    }
}

/// A certificate authority of its own.
pub struct Authority {
    issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "nvstage test authority");
        let key = rcgen::KeyPair::generate().unwrap();
        Self { issuer: rcgen::CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    /// Its certificate, for `SSL_CERT_FILE`.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    fn server(&self) -> Arc<rustls::ServerConfig> {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Arc::new(config)
    }
}
