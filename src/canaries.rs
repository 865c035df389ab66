//! Canaries: targets that are always up from here. They are asked at the moment of a failure, and
//! while all of them fail this region is cut off and no target is to blame.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::access::Access;
use crate::config_handle::ConfigHandle;
use crate::diagnosis;
use crate::outcome::ProbeResult;
use crate::prober::journal::{Journal, Level};
use crate::prober::{Probe, Prober};
use crate::telemetry::Telemetry;

/// Most time for one look at the canaries: they are near and quick by definition.
const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// How soon they are asked again while all of them fail.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The canaries of the configuration in force, and what is known of them. Shared by all probes.
#[derive(Debug)]
pub struct Canaries {
    prober: Arc<Prober>,
    config_handle: Arc<ConfigHandle>,
    telemetry: Arc<Telemetry>,
    /// The configuration itself names them.
    access: Access,
    /// Held while a look is under way, so that a thousand failures at once share one.
    seen: Mutex<Seen>,
    cut_off: Notify,
}

#[derive(Debug, Default)]
struct Seen {
    /// When the last look began, and whether all failed.
    last: Option<(Instant, bool)>,
    /// When the last look ended in which all failed.
    failed: Option<Instant>,
}

impl Canaries {
    /// Asks those of `config_handle` through `prober`, and tells `telemetry`.
    #[must_use]
    pub fn new(
        prober: Arc<Prober>,
        config_handle: Arc<ConfigHandle>,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        let (access, seen, cut_off) = (Access::unrestricted(), Mutex::default(), Notify::new());
        Self { prober, config_handle, telemetry, access, seen, cut_off }
    }

    /// Whether every canary failed when they were last asked.
    #[must_use]
    pub fn all_fail(&self) -> bool {
        self.telemetry.isolated.get() != 0
    }

    /// Asks again and again while every canary fails. Never returns.
    pub async fn watch(self: Arc<Self>) {
        loop {
            self.cut_off.notified().await;
            while self.all_fail() {
                sleep(LOOK_AGAIN_AFTER).await;
                let now = Instant::now();
                self.look(now..now, LOOK_WITHIN).await;
            }
        }
    }

    /// Judges what a probe found that has ended just now. Takes up to four seconds more.
    ///
    /// `did_fail` is whether every canary failed when the probe began: it proves nothing then,
    /// even if it ended after.
    pub async fn judge(&self, did_fail: bool, result: &mut ProbeResult) {
        let end = Instant::now();
        let begin = end.checked_sub(result.duration).unwrap_or(end);
        // On the heap, if at all: most probes succeed.
        let look = async { Box::pin(self.look(begin..end, LOOK_WITHIN)).await };
        self.blame(did_fail, look, result, &mut Journal::off()).await;
    }

    /// Carries out a probe and judges what it finds, all within the probe's own timeout.
    pub async fn probe(&self, probe: Probe<'_>, journal: &mut Journal) -> ProbeResult {
        if self.config_handle.config().canaries.is_empty() {
            return self.prober.probe(probe, journal).await;
        }
        Box::pin(self.probe_and_look(probe, journal)).await
    }

    /// A probe that lasts is in doubt after half of its timeout. The canaries are asked then
    /// already: if it uses up all of its timeout, no time is left to look.
    async fn probe_and_look(&self, probe: Probe<'_>, journal: &mut Journal) -> ProbeResult {
        let (begin, did_fail) = (Instant::now(), self.all_fail());
        let early = async {
            sleep(probe.timeout / 2).await;
            self.look(begin..Instant::now(), LOOK_WITHIN.min(probe.timeout / 4)).await
        };
        let (mut result, looked) = {
            let mut probing = std::pin::pin!(self.prober.probe(probe, journal));
            tokio::select! {
                biased;
                result = &mut probing => (result, None),
                cut_off = early => (probing.await, Some(cut_off)),
            }
        };
        let (end, left) = (Instant::now(), probe.timeout.saturating_sub(begin.elapsed()));
        let look = async {
            match looked {
                Some(cut_off) => cut_off,
                None => self.look(begin..end, LOOK_WITHIN.min(left / 2)).await,
            }
        };
        self.blame(did_fail, look, &mut result, journal).await;
        result
    }

    /// Decides who is to blame for a failure: the target, or we, who are cut off.
    async fn blame(
        &self,
        did_fail: bool,
        look: impl Future<Output = bool>,
        result: &mut ProbeResult,
        journal: &mut Journal,
    ) {
        if !result.rests_on_sight || self.config_handle.config().canaries.is_empty() {
            return;
        }
        if look.await || did_fail {
            let found = result.outcome.cause().map_or("success", |(reason, _)| reason.as_str());
            let detail = format!("every canary fails too; by itself the result was `{found}`");
            journal.note(Level::Warn, || detail.clone());
            result.outcome = diagnosis::cut_off(result.outcome);
            result.detail = Some(detail.into());
        }
    }

    /// Whether every canary failed in a look that began after a probe, or that ended while it ran.
    /// That one succeeded counts only if it was asked afterwards; the first that does decides. Waits
    /// up to `within` for the look of another, and as long for its own.
    async fn look(&self, probe: Range<Instant>, within: Duration) -> bool {
        let Ok(mut seen) = timeout(within, self.seen.lock()).await else {
            // Whoever holds it has asked, and has had no answer for as long.
            return true;
        };
        if seen.failed.is_some_and(|end| end > probe.start) {
            return true;
        }
        if let Some((begin, cut_off)) = seen.last
            && begin > probe.end
        {
            return cut_off;
        }
        let begin = Instant::now();
        let config = self.config_handle.config();
        let asked = config.canaries.iter().map(|canary| async {
            let probe = Probe {
                address: &canary.address,
                module: &canary.module,
                hostname: None,
                timeout: within,
                access: &self.access,
            };
            self.prober.probe(probe, &mut Journal::off()).await.outcome.is_success()
        });
        let answered = asked.collect::<FuturesUnordered<_>>().any(std::future::ready).await;
        let cut_off = !config.canaries.is_empty() && !answered;
        seen.last = Some((begin, cut_off));
        if cut_off {
            seen.failed = Some(Instant::now());
        }
        let before = self.telemetry.isolated.set(cut_off.into()) != 0;
        if cut_off && !before {
            warn!("every canary fails: this region is cut off");
            self.cut_off.notify_one();
        } else if before && !cut_off {
            info!("a canary answers: this region is no longer cut off");
        }
        cut_off
    }
}
