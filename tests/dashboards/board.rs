//! The committed dashboards, as panels, queries and variables.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use promql_parser::parser::{self, Expr};
use promql_parser::util::{ExprVisitor, walk_expr};
use serde_json::Value;

/// Names of the files without `.json`, which are also those of the functions that write them.
pub(crate) const NAMES: [&str; 4] = ["overview", "target", "regions", "exporter"];

/// A dashboard.
pub(crate) struct Board {
    pub(crate) name: &'static str,
    pub(crate) json: Value,
}

/// One query of a panel or an annotation.
pub(crate) struct Query {
    /// `board: panel`, for messages.
    pub(crate) place: String,
    pub(crate) expr: String,
    pub(crate) legend: String,
    pub(crate) instant: bool,
}

/// A variable that is filled by a query: `label_values(selector, label)`.
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) selector: String,
    pub(crate) label: String,
}

/// A path below the directory of the package.
pub(crate) fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// All dashboards.
#[track_caller]
pub(crate) fn shipped() -> Vec<Board> {
    let read = |name| {
        let file = path(&format!("dashboards/{name}.json"));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|err| panic!("{name}: {err}"));
        let json = serde_json::from_str(&text).unwrap_or_else(|err| panic!("{name}: {err}"));
        Board { name, json }
    };
    NAMES.into_iter().map(read).collect()
}

/// The string at a pointer; empty if there is none.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The array at a pointer; empty if there is none.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

impl Board {
    /// Panels other than headings.
    pub(crate) fn panels(&self) -> impl Iterator<Item = &Value> {
        list(&self.json, "/panels").iter().filter(|it| text(it, "/type") != "row")
    }

    /// Every query of its panels.
    pub(crate) fn queries(&self) -> Vec<Query> {
        self.panels().flat_map(|it| self.queries_of(it)).collect()
    }

    /// Every query of one panel.
    pub(crate) fn queries_of(&self, panel: &Value) -> Vec<Query> {
        let place = format!("{}: {}", self.name, text(panel, "/title"));
        let query = |it| Query {
            place: place.clone(),
            expr: text(it, "/expr").to_owned(),
            legend: text(it, "/legendFormat").to_owned(),
            instant: it["instant"] == true,
        };
        list(panel, "/targets").iter().map(query).collect()
    }

    /// Expressions of its annotations. They may be empty: nothing fires on a good day.
    pub(crate) fn annotations(&self) -> Vec<String> {
        let all = list(&self.json, "/annotations/list");
        all.iter().map(|it| text(it, "/expr").to_owned()).collect()
    }

    /// Its variables, in the order in which they may refer to each other.
    pub(crate) fn variables(&self) -> Vec<Variable> {
        let all = list(&self.json, "/templating/list").iter();
        let queried = all.filter(|it| text(it, "/type") == "query");
        let read = |it| {
            let definition = text(it, "/query/query");
            let inner =
                definition.strip_prefix("label_values(").and_then(|it| it.strip_suffix(')'));
            let (selector, label) = inner
                .and_then(|it| it.rsplit_once(','))
                .unwrap_or_else(|| panic!("{}: `{definition}` is no label_values", self.name));
            Variable {
                name: text(it, "/name").to_owned(),
                selector: selector.trim().to_owned(),
                label: label.trim().to_owned(),
            }
        };
        queried.map(read).collect()
    }
}

/// Fills in what Grafana would: its own spans, and `values` for the board's variables.
pub(crate) fn interpolate(expr: &str, values: &[(&str, &str)]) -> String {
    let mut expr =
        expr.replace("$__rate_interval", "20s").replace("$__range", "1m").replace("$window", "20s");
    for (name, value) in values {
        expr = expr.replace(&format!("${name}"), value);
    }
    expr
}

/// As above, with every variable set to All.
pub(crate) fn with_all(expr: &str) -> String {
    let every: Vec<(&str, &str)> =
        ["team", "service", "group", "monitor", "target", "region", "job", "instance"]
            .map(|it| (it, ".*"))
            .to_vec();
    interpolate(expr, &every)
}

/// The names of all series that an expression reads. Panics where it is not `PromQL`.
#[track_caller]
pub(crate) fn metrics(expr: &str) -> BTreeSet<String> {
    struct Names(BTreeSet<String>);
    impl ExprVisitor for Names {
        type Error = String;
        fn pre_visit(&mut self, expr: &Expr) -> Result<bool, String> {
            let name = match expr {
                Expr::VectorSelector(it) => it.name.clone(),
                Expr::MatrixSelector(it) => it.vs.name.clone(),
                _ => None,
            };
            self.0.extend(name);
            Ok(true)
        }
    }
    let parsed = parser::parse(expr).unwrap_or_else(|err| panic!("`{expr}`: {err}"));
    let mut names = Names(BTreeSet::new());
    walk_expr(&mut names, &parsed).expect("the visitor does not fail");
    names.0
}

/// The labels that a legend such as `{{region}} {{reason}}` names.
pub(crate) fn legend_labels(legend: &str) -> Vec<&str> {
    let pieces = legend.split("{{").skip(1);
    pieces.filter_map(|it| it.split_once("}}")).map(|(label, _)| label.trim()).collect()
}
