//! What steps send: from the configuration, or from a file that is read when it changed.

use std::path::{Path, PathBuf};

use regex::bytes::Captures;

use crate::evidence::Event;
use crate::files::{Sources, WatchedMap};
use crate::limits::SENT_FILE_BYTES;
use crate::module::Send;
use crate::prober::ProbeError;
use crate::prober::deadline::{Deadline, Elapsed};
use crate::prober::journal::Journal;
use crate::secret::Secret;

/// Files to send, read once per version of each.
#[derive(Debug)]
pub(super) struct Payloads(WatchedMap<PathBuf, Secret<Vec<u8>>>);

impl Default for Payloads {
    fn default() -> Self {
        Self(WatchedMap::new("file to send"))
    }
}

impl Payloads {
    /// The bytes to send, if any.
    ///
    /// # Errors
    /// The file cannot be read and never could, in one line.
    pub(super) async fn render(
        &self,
        send: Option<&Send>,
        captures: Option<&Captures<'_>>,
        deadline: Deadline,
        journal: &mut Journal,
    ) -> Result<Secret<Vec<u8>>, ProbeError> {
        let bytes = match send {
            None => Vec::new(),
            Some(Send::Bytes(bytes)) => bytes.expose().clone(),
            Some(Send::Line(line)) if line.expose().as_str().is_empty() => Vec::new(),
            Some(Send::Line(line)) => {
                let plain = || line.expose().as_str().as_bytes().to_vec();
                let text = captures.map_or_else(plain, |captures| line.expose().expand(captures));
                line_of(text)
            }
            Some(Send::File { path, ends_line }) => {
                let content = self.content(path, deadline, journal).await?;
                let ended = !ends_line || content.ends_with(b"\n");
                if ended { content } else { line_of(content) }
            }
        };
        Ok(Secret::new(bytes))
    }

    /// What a file holds now, or held when it could last be read.
    async fn content(
        &self,
        path: &Path,
        deadline: Deadline,
        journal: &mut Journal,
    ) -> Result<Vec<u8>, ProbeError> {
        let watched = self.0.get(&path.to_owned(), |path| {
            move |sources: &mut Sources| load(&path, sources).map(Secret::new)
        });
        let content = match deadline.cap(watched.get()).await {
            Ok(content) => content.map_err(|err| ProbeError::new(Event::Misconfigured, &*err))?,
            Err(Elapsed { stalled }) => {
                let event = if stalled { Event::Overslept } else { Event::Misconfigured };
                let path = path.display();
                let detail =
                    format!("file to send `{path}`: no answer from the file system in time");
                return Err(ProbeError::new(event, detail));
            }
        };
        journal.note_stale(watched.error());
        Ok(content.expose().clone())
    }
}

fn line_of(mut text: Vec<u8>) -> Vec<u8> {
    text.push(b'\n');
    text
}

fn load(path: &Path, sources: &mut Sources) -> Result<Vec<u8>, String> {
    let fault = |err: &dyn std::fmt::Display| format!("file to send `{}`: {err}", path.display());
    let content = sources.read(path, SENT_FILE_BYTES).map_err(|err| fault(&err))?;
    if content.is_empty() { Err(fault(&"it is empty")) } else { Ok(content) }
}
