//! Carries out probes for everybody, and looks around where a finding rests on silence: are the
//! canaries silent too, do other targets answer? Then no target is to blame, or it is.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::access::Access;
use crate::canaries::Canaries;
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

/// The prober and those whom it asks for a second opinion. Shared by all probes.
#[derive(Debug)]
pub struct Observer {
    prober: Arc<Prober>,
    config_handle: Arc<ConfigHandle>,
    telemetry: Arc<Telemetry>,
    /// The configuration itself names the canaries.
    access: Access,
    /// Held while a look is under way, so that a thousand failures at once share one.
    canaries: Mutex<Canaries>,
    cut_off: Notify,
}

impl Observer {
    /// Asks the canaries of `config_handle` through `prober`, and tells `telemetry`.
    #[must_use]
    pub fn new(
        prober: Arc<Prober>,
        config_handle: Arc<ConfigHandle>,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        let (access, canaries, cut_off) = (Access::unrestricted(), Mutex::default(), Notify::new());
        Self { prober, config_handle, telemetry, access, canaries, cut_off }
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
        self.blame(did_fail, begin, look, result, &mut Journal::off()).await;
    }

    /// Carries out a probe and judges what it finds, all within the probe's own timeout.
    pub async fn probe(&self, probe: Probe<'_>, journal: &mut Journal) -> ProbeResult {
        if self.config_handle.config().canaries.is_empty() {
            let begin = Instant::now();
            let mut result = self.prober.probe(probe, journal).await;
            self.blame(false, begin, std::future::ready(false), &mut result, journal).await;
            return result;
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
        self.blame(did_fail, begin, look, &mut result, journal).await;
        result
    }

    /// Decides about a finding that rests on silence: the target is to blame, or we, who see
    /// nobody.
    async fn blame(
        &self,
        did_fail: bool,
        begin: Instant,
        look: impl Future<Output = bool>,
        result: &mut ProbeResult,
        journal: &mut Journal,
    ) {
        let machine = self.prober.machine();
        if !result.rests_on_sight {
            if let (true, Some(peer)) = (result.outcome.is_success(), result.peer) {
                // Canaries are not noted: one that comes back in the middle of a probe does not
                // vouch for its first half.
                machine.answered(peer, Instant::now().into_std());
            }
            return;
        }
        let found = result.outcome.cause().map_or("success", |(reason, _)| reason.as_str());
        let who = if self.config_handle.config().canaries.is_empty() {
            // A port that is shut by silence wants somebody who vouches for our sight.
            if !result.outcome.is_success() || !machine.sees_nobody(result.peer) {
                return;
            }
            "no target answers any more"
        } else {
            if !(look.await || did_fail) {
                return;
            }
            if machine.sees_others(result.peer, begin.into_std()) {
                journal.note(Level::Warn, || "every canary fails, but others answer".to_owned());
                return;
            }
            "every canary fails too"
        };
        let detail = format!("{who}; by itself the result was `{found}`");
        journal.note(Level::Warn, || detail.clone());
        result.outcome = diagnosis::cut_off(result.outcome);
        result.detail = Some(detail.into());
    }

    /// Whether every canary failed in a look that began after a probe, or that ended while it ran.
    /// That one succeeded counts only if it was asked afterwards; the first that does decides. Waits
    /// up to `within` for the look of another, and as long for its own.
    async fn look(&self, probe: Range<Instant>, within: Duration) -> bool {
        let Ok(mut canaries) = timeout(within, self.canaries.lock()).await else {
            // Whoever holds it has asked, and has had no answer for as long.
            return true;
        };
        if let Some(all_fail) = canaries.known(&probe) {
            return all_fail;
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
        let all_fail = !config.canaries.is_empty() && !answered;
        canaries.note(begin..Instant::now(), all_fail);
        let before = self.telemetry.isolated.set(all_fail.into()) != 0;
        if all_fail && !before {
            warn!("every canary fails: this region is cut off");
            self.cut_off.notify_one();
        } else if before && !all_fail {
            info!("a canary answers: this region is no longer cut off");
        }
        all_fail
    }
}
