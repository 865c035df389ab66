//! The rule files as shipped, as data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A rule file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleFile {
    pub(crate) groups: Vec<Group>,
}

/// A group: rules that are evaluated one after another.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) interval: Option<String>,
    pub(crate) rules: Vec<Rule>,
}

/// A recording rule or an alert. No `keep_firing_for`: vmalert of Debian 12 refuses it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) record: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) alert: Option<String>,
    pub(crate) expr: String,
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub(crate) pending: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Rule {
    /// The name it is known by, whichever kind it is.
    pub(crate) fn name(&self) -> &str {
        self.record.as_deref().or(self.alert.as_deref()).expect("a rule records or alerts")
    }
}

/// Names of the rule files, in the order in which `promtool test` evaluates them.
pub(crate) const FILES: [&str; 3] = ["state.yml", "regions.yml", "quality.yml"];

/// A path below the directory of the package.
pub(crate) fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// The text of a file below the directory of the package.
#[track_caller]
pub(crate) fn read(relative: &str) -> String {
    std::fs::read_to_string(path(relative)).unwrap_or_else(|err| panic!("{relative}: {err}"))
}

/// The rule files as shipped.
pub(crate) fn shipped() -> Vec<RuleFile> {
    FILES
        .iter()
        .map(|it| {
            serde_yaml::from_str(&read(&format!("config/prometheus/rules/{it}")))
                .unwrap_or_else(|err| panic!("{it}: {err}"))
        })
        .collect()
}

/// Every rule of all files, in order.
pub(crate) fn all(files: &[RuleFile]) -> impl Iterator<Item = &Rule> {
    files.iter().flat_map(|it| &it.groups).flat_map(|it| &it.rules)
}
