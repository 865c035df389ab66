//! `access:` – who may probe what.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::access::{Access, Rule, Rules};
use crate::config::ModuleEntry;
use crate::config::read::{Report, YamlPath, read};
use crate::config::scalar::{OneOrMany, RuleText};
use crate::config::schema::AccessKeys;

/// Reads `access:`.
pub(super) fn access(
    path: &YamlPath<'_>,
    modules: &BTreeMap<Arc<str>, ModuleEntry>,
    report: &mut Report,
) -> Access {
    let Some(keys) = read::<AccessKeys>(path, report) else { return Access::default() };
    let everyone = rules(keys.allow, keys.deny, path, report);
    let mut by_module = BTreeMap::new();
    let modules_path = path.key("modules");
    for (name, keys) in keys.modules.into_iter().flatten() {
        let path = modules_path.key(&name);
        if !modules.contains_key(&*name) {
            let message = match report.nearest(&name, modules.keys().map(|name| &**name)) {
                Some(near) => format!("unknown module: did you mean `{near}`?"),
                None => "unknown module: define it under `modules`".to_owned(),
            };
            report.error(&path, message);
        }
        let keys = keys.unwrap_or_default();
        let rules = rules(keys.allow, keys.deny, &path, report);
        by_module.insert(Arc::from(name), rules);
    }
    let mut access = Access::new(everyone, by_module);
    access.hides_banners = keys.banners.is_some_and(|shown| !shown.0);
    access
}

fn rules(
    allow: Option<OneOrMany<RuleText>>,
    deny: Option<OneOrMany<RuleText>>,
    path: &YamlPath<'_>,
    report: &mut Report,
) -> Rules {
    let allow_path = path.key("allow");
    // An empty list of what is allowed would allow everything, which is hardly meant.
    if allow_path.is_empty() {
        let message = "the list is empty: remove it, or write `*` for everything";
        report.error(&allow_path, message);
    }
    let list = |keys: Option<OneOrMany<RuleText>>| -> Vec<Rule> {
        keys.into_iter().flat_map(OneOrMany::into_vec).map(|rule| rule.0).collect()
    };
    Rules { allow: list(allow), deny: list(deny) }
}
