//! One situation: how its world is made and broken, whose fault that is, and what is to be said.

use std::time::Duration;

use crate::ask::Answer;
use crate::scene::Scene;

/// Whose fault it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Truth {
    /// The target did what it should.
    Nobody,
    /// The target, or the way to it beyond what is ours.
    Target,
    /// The exporter's machine, its resolver, its link.
    Monitor,
}

impl Truth {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Target => "target",
            Self::Monitor => "monitor",
        }
    }
}

type Act = Box<dyn Fn(&Scene) + Send + Sync>;
type Check = Box<dyn Fn(&Scene, &Answer) -> Result<(), String> + Send + Sync>;

/// Which ways of asking make sense. The terminal has no canaries and no other targets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ways {
    pub(crate) terminal: bool,
    pub(crate) schedule: bool,
}

pub(crate) struct Situation {
    pub(crate) name: &'static str,
    /// How the world is broken, in a few words.
    pub(crate) story: String,
    pub(crate) truth: Truth,
    /// What may be said: `reason/phase`, or `success`. The first is the best.
    pub(crate) expected: Vec<&'static str>,
    /// Where the fault is, in the product's words, if the row insists.
    pub(crate) place: Option<&'static str>,
    pub(crate) ways: Ways,
    /// Whether the world is well before it is broken.
    pub(crate) begins_well: bool,
    /// How many probes on demand.
    pub(crate) times: u32,
    pub(crate) prepare: Box<dyn Fn(&mut Scene) + Send + Sync>,
    pub(crate) breaks: Option<Act>,
    /// What happens over and over while the exporter is asked.
    pub(crate) weather: Option<Act>,
    pub(crate) check: Option<Check>,
    versions: &'static [bool],
}

impl Situation {
    /// One in which nobody is at fault and all is well.
    pub(crate) fn new(name: &'static str, story: impl Into<String>) -> Self {
        Self {
            name,
            story: story.into(),
            truth: Truth::Nobody,
            expected: vec!["success"],
            place: None,
            ways: Ways { terminal: true, schedule: true },
            begins_well: true,
            times: 1,
            prepare: Box::new(Scene::open),
            breaks: None,
            weather: None,
            check: None,
            versions: &[false, true],
        }
    }

    /// The target is at fault; `expected` are the failures that say so.
    pub(crate) fn target(self, expected: &[&'static str]) -> Self {
        Self { truth: Truth::Target, expected: expected.to_vec(), ..self }
    }

    /// The exporter's side is at fault; `expected` is what says so.
    pub(crate) fn monitor(self, expected: &[&'static str]) -> Self {
        Self { truth: Truth::Monitor, expected: expected.to_vec(), ..self }
    }

    pub(crate) fn at(self, place: &'static str) -> Self {
        Self { place: Some(place), ..self }
    }

    /// Instead of an open port.
    pub(crate) fn prepare(self, act: impl Fn(&mut Scene) + Send + Sync + 'static) -> Self {
        Self { prepare: Box::new(act), ..self }
    }

    pub(crate) fn breaks(self, act: impl Fn(&Scene) + Send + Sync + 'static) -> Self {
        Self { breaks: Some(Box::new(act)), ..self }
    }

    pub(crate) fn weather(self, act: impl Fn(&Scene) + Send + Sync + 'static) -> Self {
        Self { weather: Some(Box::new(act)), ..self }
    }

    pub(crate) fn check(
        self,
        check: impl Fn(&Scene, &Answer) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self { check: Some(Box::new(check)), ..self }
    }

    pub(crate) fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }

    /// The world is broken from the start.
    pub(crate) fn begins_broken(self) -> Self {
        Self { begins_well: false, ..self }
    }

    /// Not from the terminal, which knows neither canaries nor other targets.
    pub(crate) fn without_terminal(mut self) -> Self {
        self.ways.terminal = false;
        self
    }

    /// On demand only.
    pub(crate) fn on_demand(mut self) -> Self {
        self.ways = Ways { terminal: false, schedule: false };
        self
    }

    pub(crate) fn only_v4(self) -> Self {
        Self { versions: &[false], ..self }
    }

    pub(crate) fn only_v6(self) -> Self {
        Self { versions: &[true], ..self }
    }

    /// `false` for IPv4, `true` for IPv6.
    pub(crate) fn versions(&self) -> &'static [bool] {
        self.versions
    }
}

/// For rows that wait: seconds of a probe that sees nothing.
pub(crate) const SHORT: Duration = Duration::from_millis(1500);
