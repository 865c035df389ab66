//! One name server: asks it, and remembers when it last showed a sign of life.
//!
//! Every question has a socket of its own, connected, on a port of the kernel's choice and with a
//! random id: an answer belongs to one question, an ICMP error to one server, and nothing that
//! went wrong outlives the question. UDP first, TCP only for an answer that was truncated, on a
//! connection of its own and within a time of its own.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::prober::deadline::{Deadline, Elapsed};
use crate::prober::kernel;
use crate::prober::resolve::evidence::{Asked, Said};

/// Longest answer over UDP: what is safe on any path (DNS Flag Day 2020).
const MAX_DATAGRAM: u16 = 1232;
/// How long the control question may take.
const CONTROL_LIMIT: Duration = Duration::from_secs(1);
/// The times at which the control question is sent again.
const CONTROL_WAITS: [Duration; 2] = [Duration::from_millis(300), CONTROL_LIMIT];
/// How long others are asked before a server that did not answer.
const MEMORY: Duration = Duration::from_secs(30);
/// How long the answer to the control question is held to be the server's present state.
const CONTROL_MEMORY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    /// Held for a look only.
    health: Mutex<Health>,
    /// Held while the control question is under way: at most one per server.
    control: tokio::sync::Mutex<()>,
}

/// When things last happened.
#[derive(Clone, Copy, Debug, Default)]
struct Health {
    /// Any response to any question.
    answered: Option<Instant>,
    /// A response that was no error.
    sane: Option<Instant>,
    /// The response code to the last control question.
    control: Option<(Instant, u16)>,
    /// A question that brought no response; none since.
    failed: Option<Instant>,
}

/// A question, and how to ask it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) query: &'a Query,
    pub(super) edns: bool,
    /// How long to wait after each time it is sent. Invariant: not empty.
    pub(super) waits: &'a [Duration],
    pub(super) deadline: Deadline,
}

/// How a question to a server ended without an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unanswered {
    pub(super) asked: Asked,
    /// This process slept through the end.
    pub(super) stalled: bool,
}

/// Nothing came.
#[derive(Clone, Copy, Debug)]
struct Silence {
    garbage: u32,
    stalled: bool,
}

impl Server {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, health: Mutex::default(), control: tokio::sync::Mutex::default() }
    }

    /// Whether its last question brought no response, a short while ago: others are asked first.
    pub(super) fn is_unwell(&self, now: Instant) -> bool {
        let failed = self.health().failed;
        failed.is_some_and(|failed| now.saturating_duration_since(failed) < MEMORY)
    }

    /// Whether it answered any question after this moment.
    pub(super) fn has_answered_since(&self, moment: Instant) -> bool {
        self.health().answered.is_some_and(|answered| answered > moment)
    }

    /// Asks until there is a response that is no error.
    ///
    /// # Errors
    /// What it said instead, the control question included where that decides.
    pub(super) async fn ask(&self, question: Question<'_>) -> Result<Message, Unanswered> {
        let begun = Instant::now();
        let unanswered = |said, stalled| {
            let asked = Asked { server: self.address, took: begun.elapsed(), said };
            Unanswered { asked, stalled }
        };
        match self.exchange(question).await {
            Ok(message) => match code_of(&message) {
                0 | 3 => Ok(message),
                code => {
                    let to_everybody = self.fails_everybody(code, begun, question.deadline).await;
                    Err(unanswered(Said::Error { code, to_everybody }, false))
                }
            },
            Err((said, stalled)) => {
                self.health().failed = Some(Instant::now());
                Err(unanswered(said, stalled))
            }
        }
    }

    /// Asks whether this server answers anybody, unless it has shown so after `moment`.
    pub(super) async fn control(&self, moment: Instant, deadline: Deadline) {
        // Nothing is lost where the end comes first: the answer would have been too late.
        let _ = deadline.cap(self.control_in_turn(moment, deadline)).await;
    }

    async fn control_in_turn(&self, moment: Instant, deadline: Deadline) {
        let _turn = self.control.lock().await;
        if self.has_answered_since(moment) {
            return;
        }
        let query = Query::query(Name::root(), RecordType::NS);
        let deadline = deadline.sooner(CONTROL_LIMIT);
        let question = Question { query: &query, edns: false, waits: &CONTROL_WAITS, deadline };
        let Ok(socket) = open(self.address) else { return };
        if let Ok(Ok(message)) = self.converse(&socket, question).await {
            self.health().control = Some((Instant::now(), code_of(&message)));
        }
    }

    /// Whether the control question gets this error too, and nobody got anything better since
    /// `begun`.
    async fn fails_everybody(&self, code: u16, begun: Instant, deadline: Deadline) -> bool {
        let known = |health: Health| {
            if health.sane.is_some_and(|sane| sane > begun) {
                return Some(false);
            }
            let (at, control) = health.control?;
            (at.elapsed() < CONTROL_MEMORY).then_some(control == code)
        };
        let health = *self.health();
        if let Some(known) = known(health) {
            return known;
        }
        self.control(Instant::now(), deadline).await;
        let health = *self.health();
        known(health).unwrap_or(false)
    }

    /// One question by UDP, and by TCP if the answer is truncated.
    async fn exchange(&self, question: Question<'_>) -> Result<Message, (Said, bool)> {
        let socket = open(self.address).map_err(|err| (unsent(&err), false))?;
        let (last, earlier) = question.waits.split_last().unwrap_or((&CONTROL_LIMIT, &[]));
        let early = Question { waits: earlier, ..question };
        let mut garbage = 0;
        let message = match self.converse(&socket, early).await.map_err(|said| (said, false))? {
            Ok(message) => message,
            Err(silence) => {
                garbage += silence.garbage;
                let asked = Instant::now();
                let waits = &[*last];
                let late = Question { waits, ..question };
                let control = async {
                    self.control(asked, question.deadline).await;
                    std::future::pending().await
                };
                let listening = self.converse(&socket, late);
                let heard = tokio::select! {
                    heard = listening => heard,
                    never = control => never,
                };
                match heard.map_err(|said| (said, false))? {
                    Ok(message) => message,
                    Err(silence) => {
                        garbage += silence.garbage;
                        let answered_others = self.has_answered_since(asked);
                        return Err((Said::Silence { garbage, answered_others }, silence.stalled));
                    }
                }
            }
        };
        if !message.metadata.truncation {
            return Ok(message);
        }
        let whole = self.over_tcp(question).await;
        // A part of the addresses is better than none.
        let has_part = message
            .answers
            .iter()
            .any(|record| record.record_type() == question.query.query_type());
        match whole {
            Some(whole) => Ok(whole),
            None if has_part => Ok(message),
            None => Err((Said::Truncated, false)),
        }
    }

    /// Sends a question and waits, again and again.
    async fn converse(
        &self,
        socket: &UdpSocket,
        question: Question<'_>,
    ) -> Result<Result<Message, Silence>, Said> {
        let message = message(question);
        let bytes = message.to_vec().map_err(|_| Said::Unsent(libc::EMSGSIZE))?;
        let mut buffer = vec![0; usize::from(MAX_DATAGRAM).max(4096)];
        let mut silence = Silence { garbage: 0, stalled: false };
        for wait in question.waits {
            socket.send(&bytes).await.map_err(|err| said(socket, &err))?;
            let deadline = question.deadline.sooner(*wait);
            loop {
                match deadline.cap(socket.recv(&mut buffer)).await {
                    Ok(Ok(length)) => {
                        if let Some(response) = response_to(&message, &buffer[..length]) {
                            self.note(&response);
                            return Ok(Ok(response));
                        }
                        silence.garbage = silence.garbage.saturating_add(1);
                    }
                    Ok(Err(err)) => return Err(said(socket, &err)),
                    Err(Elapsed { stalled }) => {
                        silence.stalled = stalled;
                        break;
                    }
                }
            }
            if Instant::now() >= question.deadline.end {
                break;
            }
        }
        Ok(Err(silence))
    }

    /// The whole answer; `None` if it cannot be had.
    async fn over_tcp(&self, question: Question<'_>) -> Option<Message> {
        let left = question.deadline.end.saturating_duration_since(Instant::now());
        let wait = question.waits.iter().copied().max().unwrap_or(CONTROL_LIMIT);
        let deadline = question.deadline.sooner(wait.min(left / 2));
        let message = message(question);
        let fetching = async {
            let query = message.to_vec().ok()?;
            let length = u16::try_from(query.len()).ok()?;
            let mut stream = TcpStream::connect(self.address).await.ok()?;
            stream.write_all(&[&length.to_be_bytes()[..], &query].concat()).await.ok()?;
            let length = stream.read_u16().await.ok()?;
            let mut answer = vec![0; length.into()];
            stream.read_exact(&mut answer).await.ok()?;
            response_to(&message, &answer)
        };
        let response = deadline.cap(fetching).await.ok()??;
        self.note(&response);
        Some(response)
    }

    fn note(&self, response: &Message) {
        let now = Some(Instant::now());
        let mut health = self.health();
        health.answered = now;
        health.failed = None;
        if matches!(code_of(response), 0 | 3) {
            health.sane = now;
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn code_of(message: &Message) -> u16 {
    message.metadata.response_code.into()
}

/// A socket that hears one server only, ICMP errors included.
fn open(server: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(server), Type::DGRAM.nonblocking(), None)?;
    // Without these only port unreachable is told, and only some kernels have them.
    let _ = match server {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true),
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true),
    };
    socket.connect(&SockAddr::from(server))?;
    UdpSocket::from_std(socket.into())
}

fn unsent(err: &io::Error) -> Said {
    Said::Unsent(err.raw_os_error().unwrap_or(libc::EIO))
}

/// What an error of a socket says: the server's network, or this machine.
fn said(socket: &UdpSocket, err: &io::Error) -> Said {
    let Some(errno) = err.raw_os_error() else { return unsent(err) };
    let icmp = kernel::icmp_error(socket, errno);
    match errno {
        libc::ECONNREFUSED => Said::Refused(icmp),
        _ if icmp.is_some() => Said::Unreachable(errno, icmp),
        _ => Said::Unsent(errno),
    }
}

/// The question under a new id.
fn message(question: Question<'_>) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(question.query.clone());
    if question.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_DATAGRAM);
        message.set_edns(edns);
    }
    message
}

/// The response that these bytes are, if they are the one to this question.
fn response_to(query: &Message, bytes: &[u8]) -> Option<Message> {
    let response = Message::from_vec(bytes).ok()?;
    let metadata = &response.metadata;
    let is_ours = metadata.id == query.metadata.id
        && metadata.message_type == MessageType::Response
        && metadata.op_code == OpCode::Query;
    // Servers that cannot read a question answer without it.
    let is_same = response.queries.is_empty() || response.queries == query.queries;
    (is_ours && is_same).then_some(response)
}
