#!/usr/bin/env bash
# Checks dashboards/*.json against the schema that Grafana publishes, panel options included, and
# config/kubernetes/*.yml against the operator's. Needs npm and its registry, so it stands beside
# the test suite and not in it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm init -y >/dev/null 2>&1
npm install --silent --no-audit --no-fund \
    @grafana/schema@13.2.3 ts-json-schema-generator@2 typescript@5 ajv@8 yaml@2 \
    @kubernetes-models/prometheus-operator@4
types=node_modules/@grafana/schema/dist/types/raw
schema() { npx --no-install ts-json-schema-generator --no-type-check --type '*' --path "$1" >"$2.json"; }
schema "$types/dashboard/x/types.gen.d.ts" dashboard
for kind in stat table timeseries statetimeline heatmap bargauge; do
    schema "$types/composable/$kind/panelcfg/x/types.gen.d.ts" "$kind"
done
cat >check.mjs <<'JS'
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { Ajv } from "ajv";
import { parse } from "yaml";

const [root, ...names] = process.argv.slice(2);
const compile = (file, type) => {
  const schema = JSON.parse(readFileSync(`${file}.json`, "utf8"));
  const ajv = new Ajv({ strict: false, allErrors: true });
  return schema.definitions[type] && ajv.compile({ ...schema, $ref: `#/definitions/${type}` });
};
// What Grafana itself writes and its schema leaves to plugins: the text of a query variable, and
// the settings of an annotation that come from the data source.
const EXTRAS = ["definition", "expr", "step", "titleFormat", "textFormat", "tagKeys", "useValueForTime"];
let faults = 0;
const check = (validate, value, place) => {
  if (!validate || validate(value)) return;
  for (const error of validate.errors) {
    if (EXTRAS.includes(error.params.additionalProperty)) continue;
    faults += 1;
    console.error(`${place}${error.instancePath}: ${error.message} ${JSON.stringify(error.params)}`);
  }
};
const dashboard = compile("dashboard", "Dashboard");
let panels = 0;
for (const name of names) {
  const json = JSON.parse(readFileSync(`${root}/dashboards/${name}.json`, "utf8"));
  check(dashboard, json, name);
  for (const panel of json.panels.filter((it) => it.type !== "row")) {
    const file = panel.type.replace("-", "");
    check(compile(file, "Options"), panel.options, `${name}: ${panel.title}: options`);
    const custom = panel.fieldConfig.defaults.custom;
    if (custom) check(compile(file, "FieldConfig"), custom, `${name}: ${panel.title}: custom`);
    panels += 1;
  }
}
const module = "node_modules/@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/index.js";
const { ServiceMonitor, Probe } = (await import(pathToFileURL(module).href)).default;
for (const [file, Kind] of [["servicemonitor", ServiceMonitor], ["probe", Probe]]) {
  const manifest = parse(readFileSync(`${root}/config/kubernetes/${file}.yml`, "utf8"));
  try {
    new Kind(manifest).validate();
  } catch (error) {
    faults += 1;
    console.error(`${file}: ${error.message}`);
  }
}
console.log(`${names.length} dashboards, ${panels} panels, 2 custom resources: ${faults} faults`);
process.exit(faults ? 1 : 0);
JS
node check.mjs "$root" overview target regions exporter
