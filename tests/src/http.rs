//! A small HTTP/1.1 client: one request per connection, no library that could share a mistake
//! with the server.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// How long the server may take to answer. Nothing it does takes more than a second; a loaded
/// machine may be slow.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The request, for messages.
    pub request: String,
    /// HTTP status.
    pub status: u16,
    /// Header lines, as they came.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Reply {
    /// The body as JSON, if the status is 200; panics with the whole answer otherwise.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(
            self.status == 200,
            "{} -> {} {}",
            self.request,
            self.status,
            self.body
        );
        serde_json::from_str(&self.body)
            .unwrap_or_else(|e| panic!("{}: not JSON ({e}): {}", self.request, self.body))
    }

    /// The body's message, if the status is `status`; panics with the whole answer otherwise.
    #[track_caller]
    pub fn err(self, status: u16) -> String {
        assert!(
            self.status == status,
            "{} -> {} {}",
            self.request,
            self.status,
            self.body
        );
        let body: Value = serde_json::from_str(&self.body)
            .unwrap_or_else(|e| panic!("{}: not JSON ({e}): {}", self.request, self.body));
        body["message"].as_str().unwrap_or_default().to_owned()
    }
}

/// Sends one request and reads the answer.
///
/// # Errors
/// When the connection fails or what comes back is not HTTP.
pub(crate) fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> std::io::Result<Reply> {
    let mut stream = TcpStream::connect_timeout(&address, TIME_LIMIT)?;
    stream.set_read_timeout(Some(TIME_LIMIT))?;
    stream.set_write_timeout(Some(TIME_LIMIT))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut received = Vec::new();
    stream.read_to_end(&mut received)?;
    parse(&format!("{method} {path} {body}"), &received)
        .ok_or_else(|| std::io::Error::other(format!("not HTTP: {:?}", lossy(&received))))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn parse(request: &str, received: &[u8]) -> Option<Reply> {
    let end = received.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = lossy(&received[..end]);
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    let rest = &received[end + 4..];
    let chunked = head.lines().any(|line| {
        let line = line.to_ascii_lowercase();
        line.starts_with("transfer-encoding:") && line.contains("chunked")
    });
    let body = if chunked {
        lossy(&unchunk(rest)?)
    } else {
        lossy(rest)
    };
    Some(Reply {
        request: request.trim().to_owned(),
        status,
        head,
        body,
    })
}

/// Joins the chunks of a body (RFC 9112, 7.1).
fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_body_is_joined() {
        let text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                     3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n";
        let reply = parse("GET /", text).unwrap();
        assert_eq!((reply.status, reply.body.as_str()), (200, "abcde"));
    }

    #[test]
    fn a_body_cut_short_is_an_error() {
        let text = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nabc";
        assert!(parse("GET /", text).is_none());
    }
}
