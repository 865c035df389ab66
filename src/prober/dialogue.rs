//! What happens on an open connection: TLS, the exchange of `query_response`, hold, close.
//!
//! Lines and bytes come from one buffer, so that nothing a peer sends early is lost between two
//! steps. A peer may send garbage, nothing, one byte a second or without end: the deadline bounds
//! the time, [`HELD_BYTES`] and [`RECEIVED_BYTES`] bound the memory and the work.

use std::io;
use std::time::{Duration, Instant};

use regex::bytes::Captures;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::client::TlsStream;

use crate::evidence::{Event, Transfer};
use crate::limits::{FREELY_SCANNED, HELD_BYTES, LABEL_BYTES, READ_LATE, RECEIVED_BYTES};
use crate::module::pattern::Pattern;
use crate::module::template::Template;
use crate::module::{Close, Expect, Step};
use crate::outcome::{DialogueDetails, Phase, ProbeResult};
use crate::prober::connect::{self, ConnectedSocket};
use crate::prober::deadline::{Deadline, Elapsed};
use crate::prober::journal::{self, Journal, Level};
use crate::prober::linger::Linger;
use crate::prober::payload::Payloads;
use crate::prober::stream::{Stream, TcpBytes};
use crate::prober::tls::{self, TlsClient};
use crate::prober::{Probe, ProbeError};

/// Least room for a read.
const CHUNK: usize = 4096;
/// How long small pieces are gathered beyond that before the next scan.
const GATHER: Duration = Duration::from_millis(10);
/// How long a peer may take to take the end of TLS.
const GOODBYE: Duration = Duration::from_millis(200);

/// What a talk needs beyond the connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub(super) probe: &'a Probe<'a>,
    pub(super) tls: &'a TlsClient,
    pub(super) payloads: &'a Payloads,
    pub(super) deadline: Deadline,
}

/// An open connection and what came over it but was not consumed.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    buffer: Vec<u8>,
    /// How much of the buffer is consumed. A cursor, since taking short lines off the front one
    /// by one would move the rest each time.
    consumed: usize,
    /// Bytes read so far.
    received: usize,
    /// The peer has closed its side.
    ended: bool,
    /// How much of what is held was searched for a line end in vain.
    searched: usize,
    /// Since when reads have been found something after the end of their deadline.
    late_since: Option<Instant>,
    /// Whether what came may be quoted to whoever asked for the probe.
    quotes: bool,
}

/// What reading more brought.
enum More {
    Bytes,
    End,
}

/// Carries out what the module wants beyond a connect.
///
/// # Errors
/// The first thing that went wrong, and in which phase.
pub(super) async fn talk(
    connection: &mut Connection,
    context: Context<'_>,
    result: &mut ProbeResult,
    journal: &mut Journal,
) -> Result<(), (ProbeError, Phase)> {
    let module = context.probe.module;
    connection.watch().map_err(|it| (it, Phase::Connect))?;
    if module.tls {
        connection.secure(context, result, journal).await.map_err(|it| (it, Phase::Tls))?;
    }
    let begun = Instant::now();
    let tls_before = result.phases.tls.unwrap_or_default();
    let mut dialogue = DialogueDetails::default();
    let mut ended = Ok(());
    for (index, step) in module.query_response.iter().enumerate() {
        journal.note(Level::Debug, || format!("step {index}"));
        ended = connection.step(step, context, result, &mut dialogue, journal).await;
        if ended.is_err() {
            dialogue.step = Some(index);
            break;
        }
    }
    if let (Ok(()), Some(hold)) = (&ended, module.hold) {
        journal.note(Level::Debug, || format!("holding the connection for {hold:?}"));
        ended = connection.hold(hold, context.deadline).await.map_err(|it| (it, Phase::Dialogue));
    }
    result.dialogue = Some(Box::new(dialogue));
    ended?;
    if !module.query_response.is_empty() || module.hold.is_some() {
        let tls = result.phases.tls.unwrap_or_default().saturating_sub(tls_before);
        result.phases.dialogue = Some(begun.elapsed().saturating_sub(tls));
    }
    Ok(())
}

impl Connection {
    /// A connection over which nothing came yet.
    pub(super) fn new(socket: ConnectedSocket, quotes: bool) -> Self {
        let stream = match socket {
            ConnectedSocket::Bare(socket) => Stream::Bare(socket),
            ConnectedSocket::Watched(stream) => Stream::Plain(TcpBytes::new(stream)),
        };
        Self {
            stream,
            buffer: Vec::new(),
            consumed: 0,
            received: 0,
            ended: false,
            searched: 0,
            late_since: None,
            quotes,
        }
    }

    /// Bytes that came, for a reader.
    fn shown(&self, bytes: &[u8]) -> String {
        if self.quotes { journal::shown(bytes) } else { format!("{} bytes", bytes.len()) }
    }

    /// Has the connection watched, if it is not yet.
    fn watch(&mut self) -> Result<(), ProbeError> {
        self.stream = match std::mem::replace(&mut self.stream, Stream::Gone) {
            Stream::Bare(socket) => Stream::Plain(TcpBytes::new(connect::watch(socket)?)),
            other => other,
        };
        Ok(())
    }

    /// What became of what was sent, by the kernel.
    pub(super) fn transfer(&self) -> Option<Transfer> {
        self.stream.transfer()
    }

    /// The last ICMP error that came for what was sent.
    pub(super) fn hint(&self) -> Option<io::Error> {
        self.stream.hint()
    }

    /// What came and is not consumed.
    fn held(&self) -> &[u8] {
        &self.buffer[self.consumed..]
    }

    /// Takes bytes off the front.
    fn consume(&mut self, count: usize) -> Vec<u8> {
        let end = self.consumed.saturating_add(count).min(self.buffer.len());
        let bytes = self.buffer[self.consumed..end].to_vec();
        self.consumed = end;
        self.searched = 0;
        bytes
    }

    /// Drops all that came.
    fn forget(&mut self) {
        self.buffer.clear();
        (self.consumed, self.searched) = (0, 0);
    }

    /// Begins TLS. What came in plain text and was not consumed is dropped, since nobody vouches
    /// for it.
    async fn secure(
        &mut self,
        context: Context<'_>,
        result: &mut ProbeResult,
        journal: &mut Journal,
    ) -> Result<(), ProbeError> {
        let Stream::Plain(stream) = std::mem::replace(&mut self.stream, Stream::Gone) else {
            return Err(ProbeError::new(Event::Misconfigured, "TLS is begun twice"));
        };
        self.forget();
        let begun = Instant::now();
        let Context { probe, tls, deadline, .. } = context;
        let (shown, secured) = tls.handshake(stream, probe, deadline, journal).await;
        result.tls = shown.map(Box::new);
        let secured = match secured {
            Ok(secured) => secured,
            Err(refused) => {
                self.stream = refused.stream.map_or(Stream::Gone, Stream::Plain);
                return Err(refused.error);
            }
        };
        self.stream = Stream::Tls(Box::new(secured.stream));
        if secured.may_be_refused {
            self.listen_for_refusal(begun.elapsed(), deadline).await?;
        }
        result.phases.tls = Some(begun.elapsed());
        Ok(())
    }

    /// In TLS 1.3 a server judges the client's certificate after the client is done. One that
    /// asked for a certificate is given the time of a round trip to say no.
    async fn listen_for_refusal(
        &mut self,
        handshake: Duration,
        deadline: Deadline,
    ) -> Result<(), ProbeError> {
        let patience = (handshake * 2).clamp(Duration::from_millis(50), Duration::from_millis(500));
        match self.more(deadline.sooner(patience)).await {
            Ok(_) => Ok(()),
            Err(error) if is_silence(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// One entry: wait, then send, then begin TLS.
    async fn step(
        &mut self,
        step: &Step,
        context: Context<'_>,
        result: &mut ProbeResult,
        dialogue: &mut DialogueDetails,
        journal: &mut Journal,
    ) -> Result<(), (ProbeError, Phase)> {
        let in_dialogue = |it| (it, Phase::Dialogue);
        let deadline = context.deadline;
        let reject = step.reject.as_ref();
        // What matched, and by which expression.
        let matched = match &step.expect {
            None => None,
            Some(Expect::Bytes(wanted)) => {
                let expected = self.expect_bytes(wanted, deadline, dialogue, journal);
                expected.await.map_err(in_dialogue)?;
                None
            }
            Some(Expect::Line(pattern)) => {
                let line = self.expect_line(pattern, reject, deadline, dialogue, journal);
                let line = line.await.map_err(in_dialogue)?;
                Some((pattern.for_line(&line), line))
            }
            Some(Expect::Stream(pattern)) => {
                let bytes = self.expect_stream(pattern, reject, deadline, dialogue, journal);
                Some((pattern.for_bytes(), bytes.await.map_err(in_dialogue)?))
            }
        };
        let captures = matched.as_ref().and_then(|(regex, bytes)| regex.captures(bytes));
        note_labels(step, captures.as_ref(), dialogue);
        let sent =
            context.payloads.render(step.send.as_ref(), captures.as_ref(), deadline, journal);
        let sent = sent.await.map_err(in_dialogue)?;
        if !sent.expose().is_empty() {
            // Not what: it may be a password.
            journal.note(Level::Debug, || format!("sending {} bytes", sent.expose().len()));
            self.send(sent.expose(), deadline).await.map_err(in_dialogue)?;
        }
        if step.starttls {
            journal.note(Level::Debug, || "beginning TLS".to_owned());
            self.secure(context, result, journal).await.map_err(|it| (it, Phase::Tls))?;
        }
        Ok(())
    }

    /// Consumes lines until one matches, and returns it.
    async fn expect_line(
        &mut self,
        pattern: &Pattern,
        reject: Option<&Pattern>,
        deadline: Deadline,
        dialogue: &mut DialogueDetails,
        journal: &mut Journal,
    ) -> Result<Vec<u8>, ProbeError> {
        let mut lines = 0_usize;
        let mut last = String::new();
        loop {
            while let Some(line) = self.take_line()? {
                journal.note(Level::Debug, || format!("received `{}`", self.shown(&line)));
                if pattern.for_line(&line).is_match(&line) {
                    return Ok(line);
                }
                let shown = self.shown(&line);
                if reject.is_some_and(|it| it.for_line(&line).is_match(&line)) {
                    dialogue.failed_due_to_regex = true;
                    let detail = format!("received `{shown}`, which the module rejects");
                    return Err(ProbeError::new(Event::Rejection, detail));
                }
                lines = lines.saturating_add(1);
                last = shown;
            }
            match self.more(deadline).await {
                Ok(More::Bytes) => (),
                Ok(More::End) if !self.held().is_empty() => (),
                Ok(More::End) => {
                    dialogue.failed_due_to_regex = true;
                    return Err(ended(pattern.as_str(), lines > 0, &last));
                }
                Err(mut error) => {
                    error.detail = self.waiting(&error.detail, pattern.as_str(), &last);
                    return Err(error);
                }
            }
        }
    }

    /// Takes a line off the buffer, without its line end; at the end of the stream also one
    /// that has none.
    fn take_line(&mut self) -> Result<Option<Vec<u8>>, ProbeError> {
        let held = self.held();
        let window = &held[..held.len().min(HELD_BYTES)];
        let searched = self.searched.min(window.len());
        let found = window[searched..].iter().position(|byte| *byte == b'\n');
        let (length, line_end) = match found {
            Some(offset) => (searched + offset, 1),
            None if held.len() >= HELD_BYTES => {
                let detail = format!("received {HELD_BYTES} bytes without a line end");
                return Err(ProbeError::new(Event::Mismatch, detail));
            }
            None if self.ended && !held.is_empty() => (held.len(), 0),
            None => {
                self.searched = window.len();
                return Ok(None);
            }
        };
        let mut line = self.consume(length + line_end);
        line.truncate(length);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some(line))
    }

    /// Waits for a match in all that is not consumed, and consumes up to its end.
    async fn expect_stream(
        &mut self,
        pattern: &Pattern,
        reject: Option<&Pattern>,
        deadline: Deadline,
        dialogue: &mut DialogueDetails,
        journal: &mut Journal,
    ) -> Result<Vec<u8>, ProbeError> {
        let mut scanned = 0;
        loop {
            if let Some(end) = pattern.for_bytes().find(self.held()).map(|found| found.end()) {
                let bytes = self.consume(end);
                journal.note(Level::Debug, || format!("received `{}`", self.shown(&bytes)));
                return Ok(bytes);
            }
            if reject.is_some_and(|reject| reject.for_bytes().is_match(self.held())) {
                dialogue.failed_due_to_regex = true;
                let shown = self.shown(self.held());
                let detail = format!("received `{shown}`, which the module rejects");
                return Err(ProbeError::new(Event::Rejection, detail));
            }
            if self.held().len() >= HELD_BYTES {
                dialogue.failed_due_to_regex = true;
                let detail = format!("received {HELD_BYTES} bytes that do not match");
                return Err(ProbeError::new(Event::Mismatch, detail));
            }
            match self.more_to_scan(&mut scanned, deadline).await {
                Ok(More::Bytes) => (),
                Ok(More::End) => {
                    dialogue.failed_due_to_regex = true;
                    let shown = self.shown(self.held());
                    return Err(ended(pattern.as_str(), !self.held().is_empty(), &shown));
                }
                Err(mut error) => {
                    error.detail = self.waiting(&error.detail, pattern.as_str(), "");
                    return Err(error);
                }
            }
        }
    }

    /// Reads more to be scanned together with what is held. A pattern may begin anywhere, so all of
    /// it is scanned again; from a peer that sends small pieces without end some are gathered
    /// first, so that no probe takes more than a small part of the processor.
    async fn more_to_scan(
        &mut self,
        scanned: &mut usize,
        deadline: Deadline,
    ) -> Result<More, ProbeError> {
        *scanned = scanned.saturating_add(self.held().len());
        let more = self.more(deadline).await?;
        if *scanned < FREELY_SCANNED {
            return Ok(more);
        }
        let moment = deadline.sooner(GATHER);
        while !self.ended && self.held().len() < HELD_BYTES {
            match self.more(moment).await {
                Ok(More::Bytes) => {}
                Ok(More::End) => break,
                Err(error) if is_silence(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(more)
    }

    /// Waits for exactly these bytes. The first that differs decides.
    async fn expect_bytes(
        &mut self,
        wanted: &[u8],
        deadline: Deadline,
        dialogue: &mut DialogueDetails,
        journal: &mut Journal,
    ) -> Result<(), ProbeError> {
        let mut equal = 0;
        loop {
            let held = &self.held()[..self.held().len().min(wanted.len())];
            if held[equal..] != wanted[equal..held.len()] {
                dialogue.failed_due_to_bytes = true;
                let (shown, wanted) = (self.shown(held), journal::shown(wanted));
                let detail = format!("received `{shown}`, expected `{wanted}`");
                return Err(ProbeError::new(Event::Mismatch, detail));
            }
            equal = held.len();
            if equal == wanted.len() {
                let bytes = self.consume(equal);
                journal.note(Level::Debug, || format!("received `{}`", self.shown(&bytes)));
                return Ok(());
            }
            match self.more(deadline).await {
                Ok(More::Bytes) => (),
                Ok(More::End) => return Err(ended(&journal::shown(wanted), false, "")),
                Err(mut error) => {
                    let expected = journal::shown(wanted);
                    error.detail = self.waiting(&error.detail, &expected, "");
                    return Err(error);
                }
            }
        }
    }

    /// What was awaited and what came.
    fn waiting(&self, what: &str, expected: &str, last: &str) -> String {
        let expected = journal::printable(expected);
        match (self.held(), last) {
            ([], "") => format!("waiting for `{expected}`: {what}"),
            ([], last) => format!("waiting for `{expected}`: {what}, its last was `{last}`"),
            (held, _) => {
                let held = self.shown(held);
                format!("waiting for `{expected}`: {what}, received `{held}` so far")
            }
        }
    }

    /// Reads what is there, or waits for it.
    async fn more(&mut self, deadline: Deadline) -> Result<More, ProbeError> {
        if self.ended {
            return Ok(More::End);
        }
        if self.received >= RECEIVED_BYTES {
            let detail = format!("received {RECEIVED_BYTES} bytes without an end");
            return Err(ProbeError::new(Event::Mismatch, detail));
        }
        self.check_time(deadline)?;
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        self.buffer.reserve(CHUNK);
        match deadline.cap(self.stream.read_buf(&mut self.buffer)).await {
            Ok(Ok(0)) => {
                self.ended = true;
                Ok(More::End)
            }
            Ok(Ok(count)) => {
                self.received = self.received.saturating_add(count);
                Ok(More::Bytes)
            }
            // A peer that ends TLS without saying goodbye; the TCP side did say it.
            Ok(Err(err)) if err.kind() == io::ErrorKind::UnexpectedEof => {
                self.ended = true;
                Ok(More::End)
            }
            Ok(Err(err)) => Err(broken(&err)),
            Err(elapsed) => Err(late(elapsed, "nothing more came in time")),
        }
    }

    /// What is there is read even after the end, since a process that was stopped finds it late;
    /// but a peer that always has something ready gets no more time than others.
    fn check_time(&mut self, deadline: Deadline) -> Result<(), ProbeError> {
        let now = Instant::now();
        if now < deadline.end {
            self.late_since = None;
            return Ok(());
        }
        let late_since = *self.late_since.get_or_insert(now);
        if now.saturating_duration_since(late_since) < READ_LATE {
            return Ok(());
        }
        Err(late(Elapsed { stalled: false }, "the peer goes on sending"))
    }

    async fn send(&mut self, bytes: &[u8], deadline: Deadline) -> Result<(), ProbeError> {
        let sending = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match deadline.cap(sending).await {
            Ok(result) => result.map_err(|err| broken(&err)),
            Err(elapsed) => Err(late(elapsed, "the peer does not take what is sent")),
        }
    }

    /// Keeps the connection open for a while: the peer must not close it.
    async fn hold(&mut self, hold: Duration, deadline: Deadline) -> Result<(), ProbeError> {
        let until = deadline.sooner(hold);
        loop {
            self.forget();
            if self.received >= RECEIVED_BYTES {
                // Whoever says this much has not hung up.
                return Ok(());
            }
            match self.more(until).await {
                Ok(More::Bytes) => (),
                Ok(More::End) => {
                    let detail = format!("the peer closed the connection within {hold:?}");
                    return Err(ProbeError::new(Event::Closed, detail));
                }
                Err(error) if is_silence(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends the connection in the module's way.
    pub(super) async fn close(self, close: Close, linger: &Linger) {
        let socket = match self.stream {
            Stream::Bare(socket) => Ok(socket),
            Stream::Plain(stream) => stream.into_socket(),
            Stream::Tls(mut stream) => {
                if close == Close::Fin && !says_goodbye(&mut stream).await {
                    return;
                }
                (*stream).into_inner().0.into_socket()
            }
            Stream::Gone => return,
        };
        // One that cannot be taken from the event queue is closed by now.
        let Ok(socket) = socket else { return };
        match close {
            Close::Reset => {
                let _ = socket.set_linger(Some(Duration::ZERO));
            }
            // The peer has closed already: nothing can come any more.
            Close::Fin if self.ended => (),
            Close::Fin => linger.add(socket),
        }
    }
}

/// Ends TLS. False if the peer does not even take that.
async fn says_goodbye(stream: &mut TlsStream<TcpBytes>) -> bool {
    tokio::time::timeout(GOODBYE, stream.shutdown()).await.is_ok()
}

/// Labels for the result, if a step asks for them.
fn note_labels(step: &Step, captures: Option<&Captures<'_>>, dialogue: &mut DialogueDetails) {
    let (Some(labels), Some(captures)) = (&step.labels, captures) else { return };
    let known = dialogue.labels.get_or_insert_default();
    for (name, template) in labels {
        let value = label_value(template, captures);
        match known.iter_mut().find(|(label, _)| label == name) {
            Some((_, old)) => *old = value,
            None => known.push((name.clone(), value)),
        }
    }
}

/// A label's value: valid text of bearable length, whatever the peer sent. It will be shown by
/// terminals, chats and mails, so what would move a cursor or turn the direction of writing is
/// replaced like bytes that are no text.
fn label_value(template: &Template, captures: &Captures<'_>) -> String {
    let bytes = template.expand(captures);
    let bytes = &bytes[..bytes.len().min(LABEL_BYTES)];
    let mut value = String::from_utf8_lossy(bytes).replace(journal::moves_text, "\u{fffd}");
    let end = (0..=LABEL_BYTES).rfind(|it| value.is_char_boundary(*it)).unwrap_or(0);
    value.truncate(end);
    value
}

/// The peer closed while we waited. One that said something else was of another opinion; one
/// that said nothing would not talk.
fn ended(expected: &str, said_something: bool, last: &str) -> ProbeError {
    if said_something {
        let detail =
            format!("the peer closed the connection without `{expected}`, its last was `{last}`");
        ProbeError::new(Event::ClosedAfterWords, detail)
    } else {
        let detail = format!("the peer closed the connection before `{expected}`");
        ProbeError::new(Event::Closed, detail)
    }
}

/// The connection broke, or TLS on it did.
fn broken(err: &io::Error) -> ProbeError {
    if let Some(err) = err.get_ref().and_then(|it| it.downcast_ref::<rustls::Error>()) {
        return tls::explained(err);
    }
    connect::broken(err)
}

/// Nothing came until the end of a wait.
fn late(Elapsed { stalled }: Elapsed, what: &str) -> ProbeError {
    if stalled {
        let detail = format!("this process slept past the deadline; {what}");
        return ProbeError::new(Event::Overslept, detail);
    }
    ProbeError::new(Event::Silence, what)
}

/// Whether a wait found nothing, however long it took.
const fn is_silence(error: &ProbeError) -> bool {
    matches!(error.event, Event::Silence | Event::Overslept)
}
