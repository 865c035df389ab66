//! Where notifications arrive: what Slack, PagerDuty, a webhook or a mail server would have got.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::Value;

use crate::netns::Netns;

/// One notification as it arrived.
#[derive(Clone, Debug)]
pub struct Message {
    pub at: Instant,
    /// The path of an HTTP request, the recipient of a mail.
    pub to: String,
    /// The body: JSON of a request; the text of a mail, as a string.
    pub body: Value,
}

impl Message {
    /// A string inside the body, empty where there is none: `text("/attachments/0/title")`.
    #[must_use]
    pub fn text(&self, pointer: &str) -> &str {
        self.body.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
}

/// A server that accepts everything and remembers it.
pub struct Inbox {
    address: SocketAddr,
    messages: Arc<Mutex<Vec<Message>>>,
}

impl Inbox {
    /// Accepts HTTP requests in `netns`.
    #[track_caller]
    #[must_use]
    pub fn http(netns: &Netns) -> Self {
        Self::start(netns, |stream| serve_http(stream).ok().flatten())
    }

    /// Accepts mail in `netns`.
    #[track_caller]
    #[must_use]
    pub fn smtp(netns: &Netns) -> Self {
        Self::start(netns, |stream| serve_smtp(stream).ok().flatten())
    }

    #[track_caller]
    fn start(netns: &Netns, serve: fn(&TcpStream) -> Option<(String, Value)>) -> Self {
        let listener = netns.within(|| TcpListener::bind("127.0.0.1:0")).expect("listen");
        let address = listener.local_addr().expect("bound");
        let messages = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&messages);
        // It ends with the test's process: what it waits for is the kernel.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || {
                    if let Some((to, body)) = serve(&stream) {
                        let message = Message { at: Instant::now(), to, body };
                        seen.lock().unwrap_or_else(PoisonError::into_inner).push(message);
                    }
                });
            }
        });
        Self { address, messages }
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that has arrived, in order.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve_http(mut stream: &TcpStream) -> std::io::Result<Option<(String, Value)>> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut length = 0;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((key, value)) = line.split_once(':')
            && key.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    // The words with which PagerDuty and Slack are content.
    let (status, answer) = match path.as_str() {
        "/pagerduty" => ("202 Accepted", r#"{"status":"success","dedup_key":"1"}"#),
        _ => ("200 OK", "ok"),
    };
    let length = answer.len();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(format!("{head}{answer}").as_bytes())?;
    let text = String::from_utf8_lossy(&body).into_owned();
    Ok(Some((path, serde_json::from_str(&text).unwrap_or(Value::String(text)))))
}

fn serve_smtp(mut stream: &TcpStream) -> std::io::Result<Option<(String, Value)>> {
    let mut reader = BufReader::new(stream);
    let mut say = |line: &str| stream.write_all(format!("{line}\r\n").as_bytes());
    say("220 sink ESMTP")?;
    let (mut recipient, mut mail) = (String::new(), None);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            break;
        }
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "RCPT" => {
                recipient = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
                say("250 ok")?;
            }
            "DATA" => {
                say("354 go on")?;
                let mut text = String::new();
                loop {
                    line.clear();
                    if reader.read_line(&mut line)? == 0 || line == ".\r\n" {
                        break;
                    }
                    text.push_str(&line);
                }
                mail = Some(text);
                say("250 ok")?;
            }
            "QUIT" => {
                say("221 bye")?;
                break;
            }
            _ => say("250 ok")?,
        }
    }
    Ok(mail.map(|it| (recipient, Value::String(it))))
}
