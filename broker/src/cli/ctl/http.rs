//! One request to a node's admin interface, and its answer.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

/// How long connecting may take, and how long an answer: a node asks others before it answers.
const WAIT: Duration = Duration::from_secs(15);
/// Largest answer.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Where the admin interface is: `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AdminUrl {
    host: String,
    port: u16,
}

/// A request was not answered with what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// No answer came.
    Unreachable(String),
    /// The node says no, and why.
    Refused { status: u16, detail: String },
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(what) => f.write_str(what),
            Self::Refused { detail, .. } => f.write_str(detail),
        }
    }
}

impl std::str::FromStr for AdminUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some((scheme, _)) => {
                return Err(format!(
                    "{scheme} is not part of this version; give http://HOST:PORT"
                ));
            }
            None => text,
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "8080"));
        let port = port.parse().map_err(|_| format!("{port:?} is no port"))?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() || host.contains(['/', '@', '?', '#', ' ', '\r', '\n']) {
            return Err("give http://HOST:PORT".to_owned());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl std::fmt::Display for AdminUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "http://[{}]:{}", self.host, self.port),
            false => write!(f, "http://{}:{}", self.host, self.port),
        }
    }
}

/// Who asks whom.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) url: AdminUrl,
}

impl Client {
    /// Asks; the answer is JSON.
    pub(super) fn ask(&self, method: &str, path: &str, body: &str) -> Result<serde_json::Value, Failed> {
        let unreachable = |error: std::io::Error| {
            let what = match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => "no answer in time".to_owned(),
                _ => error.to_string(),
            };
            Failed::Unreachable(format!("{} cannot be reached: {what}", self.url))
        };
        let answer = self.exchange(method, path, body).map_err(unreachable)?;
        let (status, body) = read_answer(&answer).ok_or_else(|| {
            Failed::Unreachable(format!("{} does not answer as an admin interface does", self.url))
        })?;
        let value: Option<serde_json::Value> = serde_json::from_slice(body).ok();
        if (200..300).contains(&status) {
            return value.ok_or_else(|| Failed::Refused {
                status,
                detail: "the answer is not JSON".to_owned(),
            });
        }
        let detail = value.as_ref().and_then(|value| value["detail"].as_str());
        let detail = detail.map_or_else(|| format!("the node answers with status {status}"), str::to_owned);
        Err(Failed::Refused { status, detail })
    }

    fn exchange(&self, method: &str, path: &str, body: &str) -> std::io::Result<Vec<u8>> {
        let mut last = std::io::Error::from(ErrorKind::NotFound);
        for address in (self.url.host.as_str(), self.url.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, WAIT) {
                Ok(stream) => return self.exchange_on(stream, method, path, body),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn exchange_on(
        &self,
        mut stream: TcpStream,
        method: &str,
        path: &str,
        body: &str,
    ) -> std::io::Result<Vec<u8>> {
        stream.set_read_timeout(Some(WAIT))?;
        stream.set_write_timeout(Some(WAIT))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {}:{}\r\nAccept: application/json\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.url.host,
            self.url.port,
            body.len(),
        )?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        Ok(answer)
    }
}

/// Status and body of an answer that was read to its end.
fn read_answer(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.lines();
    let mut status = lines.next()?.split(' ');
    status.next().filter(|version| version.starts_with("HTTP/1."))?;
    let status = status.next()?.parse().ok()?;
    let body = &answer[end + 4..];
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, length)| length.trim().parse::<usize>().ok());
    // An answer that was cut off is none.
    (length.is_none_or(|length| length == body.len())).then_some((status, body))
}

/// A name as part of a path.
pub(super) fn escaped(name: &str) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_they_are_written() {
        for (text, read) in [
            ("http://127.0.0.1:18080", "http://127.0.0.1:18080"),
            ("http://node1:8080/", "http://node1:8080"),
            ("node1", "http://node1:8080"),
            ("http://[::1]:9", "http://[::1]:9"),
        ] {
            assert_eq!(text.parse::<AdminUrl>().unwrap().to_string(), read);
        }
        for wrong in [
            "https://a:1",
            "http://",
            "http://a:b",
            "http://a/b:1",
            "http://a\r\nx:1",
            "http://u@h:1",
        ] {
            assert!(wrong.parse::<AdminUrl>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_answer_counts_when_it_is_whole() {
        assert_eq!(
            read_answer(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"),
            Some((200, &b"{}"[..]))
        );
        assert_eq!(
            read_answer(b"HTTP/1.1 409 Conflict\r\n\r\nx"),
            Some((409, &b"x"[..]))
        );
        for wrong in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}"[..],
            b"HTTP/1.1 200 OK\r\n",
            b"SSH-2.0\r\n\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"",
        ] {
            assert_eq!(read_answer(wrong), None);
        }
    }

    #[test]
    fn names_cannot_leave_their_place_in_the_path() {
        assert_eq!(escaped("node-1.a_b"), "node-1.a_b");
        assert_eq!(escaped("../x?y z\r\n"), "..%2Fx%3Fy%20z%0D%0A");
    }
}
