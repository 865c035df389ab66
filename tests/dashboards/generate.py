#!/usr/bin/env python3
"""Writes dashboards/*.json and pictures of their layout. The one place where a panel is changed.

Usage: tests/dashboards/generate.py [DIRECTORY]   (default: dashboards beside tests)

Grafana's JSON repeats itself: a table of six columns is two hundred lines. Here a panel is what
is particular to it, and the four dashboards read in the order of the screen. The test suite
checks that the committed files are what this script writes.

Rules of the house: one `datasource` variable and nothing else about where data come from; every
panel has a title, a description that says how to read it, and a unit; what is not known is shown
as unknown and never as zero; queries prefer the recording rules of config/prometheus/rules,
because those serve scheduled monitors and on-scrape probes alike.
"""

import html
import json
import pathlib
import sys

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
SAME_TARGET = "on (monitor, target)"

GREEN, RED, AMBER, BLUE, GREY = "green", "red", "orange", "blue", "text"

# What a person sees instead of 1, 0 and nothing.
UP = {"0": ("Down", RED), "1": ("Up", GREEN)}
DOWN = {"0": ("Up", GREEN), "1": ("Down", RED)}
YES = {"0": ("No", RED), "1": ("Yes", GREEN)}
ISOLATED = {"0": ("No", GREEN), "1": ("Isolated", RED)}


# --- building blocks ----------------------------------------------------------------------------


def mappings(words, unknown="Unknown"):
    if words is None:
        return []
    values = {
        value: {"text": text, "color": color, "index": index}
        for index, (value, (text, color)) in enumerate(words.items())
    }
    nothing = {"match": "null+nan", "result": {"text": unknown, "color": GREY, "index": len(values)}}
    return [{"type": "value", "options": values}, {"type": "special", "options": nothing}]


def thresholds(*steps):
    """`thresholds("green", (1, "red"))`: green, and red from 1 on."""
    base, *rest = steps
    return {
        "mode": "absolute",
        "steps": [{"value": None, "color": base}]
        + [{"value": value, "color": color} for value, color in rest],
    }


def query(expr, legend="", instant=False, heatmap=False):
    target = {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": " ".join(expr.split()),
        "format": "heatmap" if heatmap else "table" if instant and not legend else "time_series",
        "instant": instant,
        "range": not instant,
        "legendFormat": legend or "__auto",
    }
    return target


def panel(kind, title, description, queries, unit="short", **extra):
    for index, target in enumerate(queries):
        target["refId"] = chr(ord("A") + index)
    defaults = {"unit": unit, "mappings": mappings(extra.pop("words", None))}
    defaults["thresholds"] = extra.pop("steps", thresholds(GREEN))
    defaults["color"] = {"mode": extra.pop("color", "thresholds")}
    for key in ("min", "max", "decimals", "noValue", "links", "custom"):
        if key in extra:
            defaults[key] = extra.pop(key)
    result = {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "targets": queries,
        "fieldConfig": {"defaults": defaults, "overrides": extra.pop("overrides", [])},
        "options": extra.pop("options", {}),
    }
    result.update(extra)
    return result


def stat(title, description, expr, unit="short", legend="", **extra):
    options = {
        "colorMode": extra.pop("fill", "background"),
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "percentChangeColorMode": "standard",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showPercentChange": False,
        "textMode": "value_and_name" if legend else "auto",
        "wideLayout": True,
    }
    exprs = expr if isinstance(expr, list) else [(expr, legend)]
    if len(exprs) > 1:
        options["textMode"] = "value_and_name"
    queries = [query(each, name or title, instant=True) for each, name in exprs]
    return panel("stat", title, description, queries, unit, options=options, **extra)


def series(title, description, exprs, unit="short", stack=False, fill=10, **extra):
    custom = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 40 if stack else fill,
        "showPoints": "auto",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stack else "none", "group": "A"},
        "thresholdsStyle": {"mode": extra.pop("threshold_style", "off")},
    }
    options = {
        "legend": {
            "showLegend": True,
            "displayMode": "table",
            "placement": "bottom",
            "calcs": ["lastNotNull", "max"],
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    queries = [query(expr, legend) for expr, legend in exprs]
    extra.setdefault("color", "palette-classic")
    return panel(
        "timeseries", title, description, queries, unit, custom=custom, options=options, **extra
    )


def timeline(title, description, exprs, words=None, **extra):
    options = {
        "alignValue": "left",
        "mergeValues": True,
        "rowHeight": 0.9,
        "showValue": "never",
        "legend": {
            "showLegend": words is not None,
            "displayMode": "list",
            "placement": "bottom",
            "calcs": [],
        },
        "tooltip": {"mode": "single", "sort": "none"},
    }
    custom = {"fillOpacity": 80, "lineWidth": 0}
    queries = [query(expr, legend) for expr, legend in exprs]
    return panel(
        "state-timeline",
        title,
        description,
        queries,
        "none",
        words=words,
        custom=custom,
        options=options,
        **extra,
    )


def heatmap(title, description, expr, unit="s"):
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "fill": "dark-orange",
            "exponent": 0.5,
            "reverse": False,
            "steps": 64,
        },
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "yHistogram": True},
        "yAxis": {"axisPlacement": "left", "unit": unit, "reverse": False},
    }
    queries = [query(expr, "{{le}}", heatmap=True)]
    return panel("heatmap", title, description, queries, unit, options=options)


def bars(title, description, expr, legend, unit="s", **extra):
    options = {
        "displayMode": "basic",
        "legend": {
            "showLegend": False,
            "displayMode": "list",
            "placement": "bottom",
            "calcs": [],
        },
        "maxVizHeight": 300,
        "minVizHeight": 16,
        "minVizWidth": 8,
        "namePlacement": "auto",
        "orientation": "horizontal",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showUnfilled": True,
        "sizing": "auto",
        "valueMode": "color",
    }
    queries = [query(expr, legend, instant=True)]
    return panel("bargauge", title, description, queries, unit, options=options, **extra)


def column(name, title=None, **properties):
    """What is particular to one column; `properties` by their path, `custom__width=80`."""
    listed = [{"id": "displayName", "value": title}] if title else []
    for key, value in properties.items():
        listed.append({"id": key.replace("__", "."), "value": value})
    return {"matcher": {"id": "byName", "options": name}, "properties": listed}


def table(title, description, exprs, columns, order, sort=None, transformations=None, **extra):
    options = {
        "cellHeight": "sm",
        "enablePagination": True,
        "frameIndex": 0,
        "showHeader": True,
        "showTypeIcons": False,
        "sortBy": [{"displayName": sort[0], "desc": sort[1]}] if sort else [],
    }
    queries = [query(expr, instant=True) for expr in exprs]
    if transformations is None:
        keep = {"id": "filterFieldsByName", "options": {"include": {"names": order}}}
        index = {name: position for position, name in enumerate(order)}
        arrange = {
            "id": "organize",
            "options": {"excludeByName": {}, "includeByName": {}, "indexByName": index, "renameByName": {}},
        }
        transformations = [{"id": "merge", "options": {}}, keep, arrange]
    custom = {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": True, "inspect": False}
    return panel(
        "table",
        title,
        description,
        queries,
        extra.pop("unit", "none"),
        custom=custom,
        options=options,
        overrides=columns,
        transformations=transformations,
        **extra,
    )


COLOURED = {"type": "color-background", "mode": "basic"}


def words_column(name, title, words, **properties):
    return column(
        name, title, mappings=mappings(words), custom__cellOptions=COLOURED, **properties
    )


def to_target(title="What happened to it"):
    """From a row to the dashboard of its target."""
    url = (
        "/d/tcp-monitor-target?${datasource:queryparam}"
        "&var-monitor=${__data.fields.monitor}&var-target=${__data.fields.target}"
        "&${__url_time_range}"
    )
    return [{"title": title, "url": url, "targetBlank": False}]


def series_to_target():
    url = (
        "/d/tcp-monitor-target?${datasource:queryparam}"
        "&var-monitor=${__field.labels.monitor}&var-target=${__field.labels.target}"
        "&${__url_time_range}"
    )
    return [{"title": "What happened to it", "url": url, "targetBlank": False}]


def to_runbook():
    url = "${runbook}#${__value.text}"
    return [{"title": "What to do", "url": url, "targetBlank": True}]


def row(title):
    return {"type": "row", "title": title, "collapsed": False, "panels": []}


def variable(name, label, definition, description, multi=True, everything=True):
    result = {
        "type": "query",
        "name": name,
        "label": label,
        "description": description,
        "datasource": DATASOURCE,
        "definition": definition,
        "query": {"query": definition, "refId": "variable"},
        "refresh": 2,
        "regex": "",
        "sort": 1,
        "hide": 0,
        "multi": multi,
        "includeAll": everything,
        "options": [],
    }
    if everything:
        result["allValue"] = ".*"
        result["current"] = {"selected": True, "text": ["All"], "value": ["$__all"]}
        if not multi:
            result["current"] = {"selected": True, "text": "All", "value": "$__all"}
    return result


def window(default="5m"):
    choices = ["1m", "5m", "15m", "1h", "6h", "1d"]
    return {
        "type": "custom",
        "name": "window",
        "label": "Averaged over",
        "description": "Monitors keep their own interval: choose a span of several of them.",
        "query": ",".join(choices),
        "current": {"selected": True, "text": default, "value": default},
        "options": [{"selected": it == default, "text": it, "value": it} for it in choices],
        "multi": False,
        "includeAll": False,
        "hide": 0,
    }


def dashboard(uid, title, description, variables, rows, annotations=None, time="now-6h"):
    panels, y = [], 0
    for heading, lines in rows:
        panels.append(row(heading) | {"gridPos": {"h": 1, "w": 24, "x": 0, "y": y}})
        y += 1
        for height, widths, members in lines:
            x = 0
            for width, each in zip(widths, members, strict=True):
                panels.append(each | {"gridPos": {"h": height, "w": width, "x": x, "y": y}})
                x += width
            assert x == 24, (title, heading, widths)
            y += height
    for number, each in enumerate(panels, 1):
        each["id"] = number
    source = {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "description": "The Prometheus that all regions report to.",
        "query": "prometheus",
        "regex": "",
        "refresh": 1,
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "options": [],
    }
    runbook = {
        "type": "constant",
        "name": "runbook",
        "label": "Runbook",
        "description": "Where the runbook of the alerts is published.",
        "query": "https://runbooks.example.com/tcp_probe_exporter/runbook.md",
        "hide": 2,
        "skipUrlSync": True,
    }
    link = {"asDropdown": False, "includeVars": False, "keepTime": True, "targetBlank": False}
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["tcp_probe_exporter", "prometheus"],
        "schemaVersion": 42,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "1m",
        "time": {"from": time, "to": "now"},
        "timezone": "browser",
        "timepicker": {},
        "fiscalYearStartMonth": 0,
        "weekStart": "",
        "links": [
            link
            | {
                "type": "dashboards",
                "title": "TCP monitors",
                "icon": "external link",
                "tags": ["tcp_probe_exporter"],
                "tooltip": "The other dashboards of the TCP monitors",
                "url": "",
            },
            link
            | {
                "type": "link",
                "title": "Runbook",
                "icon": "doc",
                "tags": [],
                "targetBlank": True,
                "tooltip": "What every alert and every reason means, and what to do",
                "url": "${runbook}",
            },
        ],
        "annotations": {"list": annotations or []},
        "templating": {"list": [source, *variables, runbook]},
        "panels": panels,
    }


def alerts(name, expr, color=RED):
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": color,
        "expr": expr,
        "step": "30s",
        "titleFormat": "{{alertname}}",
        "textFormat": "{{monitor}} {{target}} {{region}}",
        "tagKeys": "severity,team",
        "useValueForTime": False,
    }


# --- queries that several panels share ----------------------------------------------------------

CHOSEN = 'group=~"$group", service=~"$service", team=~"$team"'
LABELS = f"target:tcp_monitor_info:labels{{{CHOSEN}}}"
DOWN_NOW = f"target:tcp_monitor_down:info{{{CHOSEN}}}"

# The reason most regions give, one per target, in either mode.
REASON = """
  (topk by (monitor, target) (1, count by (monitor, target, reason, phase) (
    tcp_monitor_failure_info or probe_failure_info{target!=""}
  )) ^ 0)
"""


def of_chosen(expr):
    """Keeps the targets that the variables choose."""
    return f"({expr}) and {SAME_TARGET} {LABELS}"


DURATION = "tcp_monitor_probe_duration_seconds"


def histogram_quantile(quantile, by, matchers, window):
    """A quantile of the durations, from a native histogram or else from classic buckets."""
    le = f"{by}, le" if by else "le"
    by = f" by ({by})" if by else ""
    return (
        f"histogram_quantile({quantile}, sum{by} (rate({DURATION}{{{matchers}}}[{window}])))"
        f" or histogram_quantile({quantile}, sum by ({le}) (rate({DURATION}_bucket{{{matchers}}}[{window}])))"
    )


def mean(by, matchers, window):
    """The mean of the durations, which needs no histogram."""
    by = f" by ({by})" if by else ""
    return (
        f"sum{by} (rate({DURATION}_sum{{{matchers}}}[{window}]))"
        f" / (sum{by} (rate({DURATION}_count{{{matchers}}}[{window}])) > 0)"
    )


def latency(by, matchers, window):
    """The 95th percentile of the durations, or their mean where no histogram is stored."""
    return f"({histogram_quantile(0.95, by, matchers, window)} or {mean(by, matchers, window)}) > 0"


def policy_of(name, matchers):
    """A value of the policy of targets: exporters expose each policy once."""
    return (
        f"(tcp_monitor_info{{{matchers}}} * on (policy) group_left ()"
        f" max by (policy) (tcp_monitor_policy_{name}))"
    )


def filters():
    source = "target:tcp_monitor_info:labels"
    return [
        variable(
            name,
            label,
            f"label_values({source}, {name})",
            f"Only targets whose `{name}` label is one of these.",
        )
        for name, label in (("team", "Team"), ("service", "Service"), ("group", "Group"))
    ]


# --- overview -----------------------------------------------------------------------------------


def overview():
    heads = [
        stat(
            "Targets down",
            "Targets that enough regions hold down. Zero is the goal; the table below says which.",
            f"count({DOWN_NOW}) or vector(0)",
            steps=thresholds(GREEN, (1, RED)),
        ),
        stat(
            "Failing somewhere",
            "Targets that at least one region holds down without the quorum that makes them down: a regional fault, or the first minutes of an outage.",
            f"count(({of_chosen('target:tcp_monitor_regions_down:last > 0')}) unless {SAME_TARGET} target:tcp_monitor_down:info) or vector(0)",
            steps=thresholds(GREEN, (1, AMBER)),
        ),
        stat(
            "Groups below minimum",
            "Failover pairs and clusters with fewer members up than their `min_up`.",
            f'count(group:tcp_monitor_members_down:count > group:tcp_monitor_members:count - group:tcp_monitor_group_min_up:max) or vector(0)',
            steps=thresholds(GREEN, (1, RED)),
        ),
        stat(
            "Nobody looks",
            "Targets in the configuration that no region reports freshly. They are neither up nor down: see the regions dashboard.",
            f"count({LABELS} unless {SAME_TARGET} target:tcp_monitor_regions_fresh:count) or vector(0)",
            steps=thresholds(GREEN, (1, AMBER)),
        ),
        stat(
            "Targets watched",
            "Targets of the chosen teams, services and groups.",
            f"count({LABELS})",
            steps=thresholds(BLUE),
            fill="value",
        ),
        stat(
            "Regions reporting",
            "Regions that have a fresh verdict on at least one target.",
            "count(count by (region) (region_target:tcp_monitor_up:fresh))",
            steps=thresholds(BLUE),
            fill="value",
        ),
        stat(
            "Availability",
            "Share of the chosen time in which the targets were not down, averaged over the targets. Down means down by quorum.",
            f"1 - avg({of_chosen('avg_over_time(target:tcp_monitor_down:quorum[$__range])')})",
            "percentunit",
            steps=thresholds(RED, (0.99, AMBER), (0.999, GREEN)),
            decimals=3,
            max=1,
            fill="value",
        ),
    ]
    down_now = table(
        "Down now",
        "One row per target that is down, longest outage first. The reason is the one that most regions give: it links to what to do; the target links to its history.",
        [
            f"(({DOWN_NOW}) * {SAME_TARGET} group_left (reason, phase) {REASON}) or {DOWN_NOW}",
            f"(time() - target:tcp_monitor_down:since) and {SAME_TARGET} {DOWN_NOW}",
            f"target:tcp_monitor_regions_down:last and {SAME_TARGET} {DOWN_NOW}",
        ],
        [
            column("monitor", "Monitor", links=to_target()),
            column("target", "Target", links=to_target()),
            column("reason", "Reason", links=to_runbook()),
            column("phase", "Phase"),
            column("Value #B", "Down for", unit="s"),
            column("Value #C", "Regions down", unit="none"),
            column("service", "Service"),
            column("group", "Group"),
            column("team", "Team"),
        ],
        ["monitor", "target", "reason", "phase", "Value #B", "Value #C", "service", "group", "team"],
        sort=("Down for", True),
        noValue="Nothing is down",
    )
    by_team = table(
        "By team",
        "How many targets each team has and how many of them are down.",
        [
            f"count by (team) ({LABELS})",
            f"count by (team) ({DOWN_NOW}) or 0 * count by (team) ({LABELS})",
        ],
        [
            column("team", "Team"),
            column("Value #A", "Targets", unit="none"),
            column("Value #B", "Down", thresholds=thresholds(GREEN, (1, RED)), custom__cellOptions=COLOURED),
        ],
        ["team", "Value #A", "Value #B"],
        sort=("Down", True),
    )
    by_service = table(
        "By service",
        "How many targets each service has and how many of them are down.",
        [
            f"count by (service) ({LABELS})",
            f"count by (service) ({DOWN_NOW}) or 0 * count by (service) ({LABELS})",
        ],
        [
            column("service", "Service"),
            column("Value #A", "Targets", unit="none"),
            column("Value #B", "Down", thresholds=thresholds(GREEN, (1, RED)), custom__cellOptions=COLOURED),
        ],
        ["service", "Value #A", "Value #B"],
        sort=("Down", True),
    )
    by_group = table(
        "By group",
        "Groups of targets that stand in for each other. A group is down when fewer than its minimum are up; one with a member down has lost its redundancy.",
        [
            'group:tcp_monitor_members:count{group=~"$group"}',
            'group:tcp_monitor_members_down:count{group=~"$group"}',
            'group:tcp_monitor_group_min_up:max{group=~"$group"}',
        ],
        [
            column("group", "Group"),
            column("Value #A", "Members", unit="none"),
            column("Value #B", "Down", thresholds=thresholds(GREEN, (1, RED)), custom__cellOptions=COLOURED),
            column("Value #C", "Needed", unit="none"),
        ],
        ["group", "Value #A", "Value #B", "Value #C"],
        sort=("Down", True),
    )
    outages = timeline(
        "Outages in this time",
        "Every target that was down at least once in the chosen time. Unknown means that no region could tell.",
        [
            (
                of_chosen("target:tcp_monitor_down:quorum")
                + f" and {SAME_TARGET} (max_over_time(target:tcp_monitor_down:quorum[$__range] @ end()) == 1)",
                "{{monitor}} {{target}}",
            )
        ],
        DOWN,
        links=series_to_target(),
    )
    everything = table(
        "All targets",
        "Every target, the ones that are down first. Availability is over the chosen time, latency is the 95th percentile of its successful probes, or their mean where no histogram is stored.",
        [
            f"{LABELS} * {SAME_TARGET} group_left () target:tcp_monitor_down:quorum",
            f"1 - ({of_chosen('avg_over_time(target:tcp_monitor_down:quorum[$__range])')})",
            of_chosen(
                f"{latency('monitor, target', '', '$__range')}"
                ' or quantile by (monitor, target) (0.95, quantile_over_time(0.95, probe_duration_seconds{target!=""}[$__range]))'
            ),
            of_chosen("target:tcp_monitor_regions_down:last"),
            of_chosen("target:tcp_monitor_regions_fresh:count"),
        ],
        [
            words_column("Value #A", "Verdict", DOWN, custom__width=90),
            column("monitor", "Monitor", links=to_target()),
            column("target", "Target", links=to_target()),
            column("Value #B", "Availability", unit="percentunit", decimals=3),
            column("Value #C", "Latency", unit="s"),
            column("Value #D", "Regions down", unit="none"),
            column("Value #E", "Regions looking", unit="none"),
            column("module", "Module"),
            column("service", "Service"),
            column("group", "Group"),
            column("role", "Role"),
            column("team", "Team"),
        ],
        [
            "Value #A", "monitor", "target", "Value #B", "Value #C", "Value #D", "Value #E",
            "module", "service", "group", "role", "team",
        ],
        sort=("Verdict", True),
    )  # fmt: skip
    slowest = bars(
        "Slowest targets",
        "95th percentile of the successful probes of the chosen time, or their mean where no histogram is stored, from the region that sees it worst. A refusal is quick and never counted here.",
        f"topk(10, max by (monitor, target) ({of_chosen(latency('monitor, target, region', '', '$__range'))}"
        f""" or {of_chosen('quantile_over_time(0.95, probe_duration_seconds{target!=""}[$__range])')}))""",
        "{{monitor}} {{target}}",
        steps=thresholds(GREEN, (0.5, AMBER), (2, RED)),
        min=0,
        links=series_to_target(),
    )
    reasons = series(
        "Why probes fail",
        "How many pairs of target and region fail at this moment, by reason. Reasons that begin with `local_` speak against the monitor's own machine and never against a target.",
        [
            (
                f"""count by (reason) ({of_chosen('tcp_monitor_failure_info or probe_failure_info{target!=""}')})""",
                "{{reason}}",
            )
        ],
        stack=True,
        min=0,
    )
    regions = series(
        "Targets up by region",
        "Share of the targets that each region holds up. One line below the others is a fault of that region or of the way from it.",
        [("avg by (region) (region_target:tcp_monitor_up:fresh)", "{{region}}")],
        "percentunit",
        max=1,
        fill=0,
    )
    return dashboard(
        "tcp-monitor-overview",
        "TCP monitors / Overview",
        "What is down now, since when and why; availability, latency and the regions that look.",
        filters(),
        [
            (
                "Now",
                [
                    (4, [4, 4, 4, 3, 3, 3, 3], heads),
                    (9, [24], [down_now]),
                    (7, [8, 8, 8], [by_team, by_service, by_group]),
                ],
            ),
            ("In the chosen time", [(9, [24], [outages]), (9, [8, 8, 8], [reasons, regions, slowest])]),
            ("Everything", [(14, [24], [everything])]),
        ],
        [alerts("Pages", 'ALERTS{alertname=~"TcpMonitor.*", alertstate="firing", severity="critical"}')],
    )


# --- target -------------------------------------------------------------------------------------

THIS = 'monitor=~"$monitor", target="$target"'
HERE = f'{THIS}, region=~"$region"'


def target():
    since = "time() - (target:tcp_monitor_down:since{%s} > 0)" % THIS
    changed = f"time() - max(tcp_monitor_last_change_timestamp_seconds{{{THIS}}})"
    heads = [
        stat(
            "Verdict",
            "What is held to be true of the target: down when enough regions confirm it.",
            f"max(target:tcp_monitor_down:quorum{{{THIS}}})",
            words=DOWN,
            steps=thresholds(GREY),
            noValue="Unknown",
        ),
        stat(
            "For",
            "Time since the outage began or, while it is up, since a region last changed its mind. Empty in on-scrape mode while up.",
            f"max({since}) or {changed} or 0 * max(target:tcp_monitor_down:quorum{{{THIS}}})",
            "s",
            fill="none",
        ),
        stat(
            "Regions",
            "How many regions hold it down, how many look freshly, and how many must agree.",
            [
                (f"max(target:tcp_monitor_regions_down:last{{{THIS}}})", "down"),
                (f"max(target:tcp_monitor_regions_fresh:count{{{THIS}}})", "looking"),
                (f"max(target:tcp_monitor_required_regions:effective{{{THIS}}})", "needed"),
            ],
            "none",
            fill="none",
        ),
        stat(
            "Availability",
            "Share of the chosen time in which it was not down by quorum.",
            f"1 - avg(avg_over_time(target:tcp_monitor_down:quorum{{{THIS}}}[$__range]))",
            "percentunit",
            decimals=3,
            max=1,
            steps=thresholds(RED, (0.99, AMBER), (0.999, GREEN)),
            fill="value",
        ),
        stat(
            "Error budget left",
            "What remains of the downtime that the objective allows in the chosen time. Below zero the objective is missed. Empty without `slo`.",
            f"1 - avg(avg_over_time(target:tcp_monitor_down:quorum{{{THIS}}}[$__range])) / (1 - max({policy_of('slo_objective_ratio', THIS)}))",
            "percentunit",
            decimals=1,
            steps=thresholds(RED, (0, AMBER), (0.5, GREEN)),
            noValue="No objective",
            fill="value",
        ),
        stat(
            "Certificate expires in",
            "Until the first certificate of the chain expires, seen by the region that sees the worst. Empty where TLS is not spoken.",
            f"min(tcp_monitor_tls_cert_not_after_timestamp_seconds{{{THIS}}} or probe_ssl_earliest_cert_expiry{{{THIS}}}) - time()",
            "s",
            steps=thresholds(RED, (3 * 86400, AMBER), (14 * 86400, GREEN)),
            noValue="No TLS",
            fill="value",
        ),
    ]
    by_region = table(
        "Seen from each region",
        "What each region holds to be true, what its last probe found, and how old that is. The reason links to what to do.",
        [
            f"max by (region) (region_target:tcp_monitor_up:last{{{HERE}}})",
            f'count by (region, reason, phase) (tcp_monitor_failure_info{{{HERE}}} or probe_failure_info{{{HERE}}}) ^ 0'
            f" or on (region) 0 * max by (region) (region_target:tcp_monitor_up:last{{{HERE}}})",
            f"max by (region) (tcp_monitor_consecutive_failures{{{HERE}}} or instance_target:probe_failures:streak{{{HERE}}})",
            f"min by (region) (time() - (tcp_monitor_last_probe_timestamp_seconds{{{HERE}}} or instance_target:probe_success:timestamp{{{HERE}}}))",
            f"max by (region) (tcp_monitor_rtt_seconds{{{HERE}}} or probe_tcp_rtt_seconds{{{HERE}}})",
        ],
        [
            column("region", "Region"),
            words_column("Value #A", "Verdict", UP, custom__width=90),
            column("reason", "Last reason", links=to_runbook()),
            column("phase", "Phase"),
            column("Value #C", "Failures in a row", unit="none"),
            column("Value #D", "Last looked", unit="s"),
            column("Value #E", "Round trip", unit="s"),
        ],
        ["region", "Value #A", "reason", "phase", "Value #C", "Value #D", "Value #E"],
        sort=("Verdict", False),
    )
    verdicts = timeline(
        "Verdict by region",
        "The confirmed verdict of every region, and the one they reach together. A gap is time in which a region could not tell.",
        [
            (f"max(target:tcp_monitor_down:quorum{{{THIS}}}) == bool 0", "all regions"),
            (f"max by (region) (region_target:tcp_monitor_up:fresh{{{HERE}}})", "{{region}}"),
        ],
        UP,
    )
    outcomes = timeline(
        "Outcome by region",
        "The last conclusive probe of every region, before confirmation: a failure here that does not show above was a single one.",
        [
            (
                f"max by (region) (tcp_monitor_probe_success{{{HERE}}} or probe_success{{{HERE}}})",
                "{{region}}",
            )
        ],
        {"0": ("Failure", RED), "1": ("Success", GREEN)},
    )
    reasons = timeline(
        "Reason by region",
        "Why the last probe was no success, one line per region and reason. `local_…` means that the monitor could not look.",
        [
            (
                f"count by (region, reason, phase) (tcp_monitor_failure_info{{{HERE}}} or probe_failure_info{{{HERE}}})",
                "{{region}}: {{reason}} ({{phase}})",
            )
        ],
        {"1": ("So it was", AMBER)},
    )
    probes = series(
        "Probes by outcome",
        "Probes per second of every region. Re-checks after a failure raise the rate: that is confirmation at work.",
        [
            (
                f"sum by (region, outcome) (rate(tcp_monitor_probes_total{{{HERE}}}[$window]))"
                f" or count by (region) (count_over_time(probe_success{{{HERE}}}[$window])) * 0",
                "{{region}} {{outcome}}",
            )
        ],
        "ops",
        min=0,
        stack=True,
    )
    quantiles = series(
        "Duration of successful probes",
        "From start to end, resolution, TLS and dialogue included, all chosen regions together. Quantiles need a histogram: native, or `histogram: classic`. The limit is the monitor's `slow`.",
        [
            (
                f"{histogram_quantile(q, '', HERE, '$window')}"
                f" or quantile({q}, probe_duration_seconds{{{HERE}}} and on (instance, target, job) (probe_success == 1))",
                f"p{int(q * 100)}",
            )
            for q in (0.5, 0.95, 0.99)
        ]
        + [
            (f"max({mean('', HERE, '$window')})", "mean"),
            (f"max({policy_of('slow_seconds', THIS)})", "slow from"),
        ],
        "s",
        min=0,
        fill=0,
    )
    heat = heatmap(
        "Duration of successful probes, all of them",
        "How many successful probes took how long. Two bands are two populations: two addresses, two ways, or lost packets that cost a second each.",
        f"sum(increase(tcp_monitor_probe_duration_seconds{{{HERE}}}[$window]))"
        f" or sum by (le) (increase(tcp_monitor_probe_duration_seconds_bucket{{{HERE}}}[$window]))",
    )
    rtt = series(
        "Round trip against duration",
        "The kernel's round trip of the handshake beside the mean of whole probes. Round trip high: the network. Only the duration high: the service, its TLS, the name servers or the exporter's machine.",
        [
            (
                f"max by (region) (tcp_monitor_rtt_seconds{{{HERE}}} or probe_tcp_rtt_seconds{{{HERE}}})",
                "{{region}} round trip",
            ),
            (
                f"{mean('region', HERE, '$window')}"
                f" or avg by (region) (probe_duration_seconds{{{HERE}}})",
                "{{region}} whole probe",
            ),
        ],
        "s",
        min=0,
        fill=0,
    )
    phases = series(
        "Phases of on-scrape probes",
        "Where the time goes: name, handshake, TLS, dialogue. Only `/probe` reports phases one by one.",
        [
            (
                f"max by (region, phase) (probe_phase_duration_seconds{{{HERE}}})",
                "{{region}} {{phase}}",
            )
        ],
        "s",
        min=0,
        fill=0,
    )
    retransmits = series(
        "SYN packets sent again",
        "Lost packets or a full accept queue at the target. With a long duration and none of these, the exporter was late and not the network.",
        [
            (
                f"sum by (region) (increase(tcp_monitor_syn_retransmits_total{{{HERE}}}[$window])"
                f" or probe_tcp_syn_retransmits{{{HERE}}})",
                "{{region}}",
            )
        ],
        "short",
        min=0,
    )
    certificate = table(
        "Certificate",
        "What the target shows on scrape, whether or not it is believed. Scheduled monitors report the expiry only, above.",
        [
            f"max by (region, subject, issuer, subjectalternative, serialnumber) (probe_ssl_last_chain_info{{{HERE}}})",
            f"max by (region) (probe_ssl_leaf_not_before_timestamp_seconds{{{HERE}}}) * 1000",
            f"min by (region) (probe_ssl_leaf_not_after_timestamp_seconds{{{HERE}}}) * 1000",
            f"max by (region, version) (probe_tls_version_info{{{HERE}}})",
        ],
        [
            column("region", "Region"),
            column("subject", "Subject"),
            column("issuer", "Issuer"),
            column("subjectalternative", "Names"),
            column("serialnumber", "Serial"),
            column("version", "TLS"),
            column("Value #B", "Valid from", unit="dateTimeAsIso"),
            column("Value #C", "Valid to", unit="dateTimeAsIso"),
        ],
        ["region", "subject", "issuer", "subjectalternative", "serialnumber", "version", "Value #B", "Value #C"],
    )
    policy = stat(
        "Policy in force",
        "What the monitor's configuration says, as the rules read it. Longest time to notice: interval + (failures - 1) x retry interval + failures x timeout.",
        [
            (f"max({policy_of('interval_seconds', THIS)})", "interval"),
            (f"max({policy_of('timeout_seconds', THIS)} or probe_timeout_seconds{{{THIS}}})", "timeout"),
            (f"max({policy_of('slow_seconds', THIS)})", "slow from"),
        ],
        "s",
        fill="none",
    )
    confirmation = stat(
        "Confirmation",
        "Failures in a row that a region needs to hold the target down, and regions that must agree.",
        [
            (f"max(target:tcp_monitor_confirm_failures:max{{{THIS}}})", "failures"),
            (f"max(target:tcp_monitor_required_regions:max{{{THIS}}})", "regions"),
        ],
        "none",
        fill="none",
    )
    objective = stat(
        "Objective",
        "The monitor's `slo`. Empty without one.",
        f"max({policy_of('slo_objective_ratio', THIS)})",
        "percentunit",
        decimals=3,
        noValue="None",
        fill="none",
    )
    labels = table(
        "Who and what",
        "The labels that alerts are routed by.",
        [f"target:tcp_monitor_info:labels{{{THIS}}}"],
        [
            column(name, name.capitalize())
            for name in ("monitor", "target", "module", "service", "group", "role", "team", "severity")
        ],
        ["monitor", "target", "module", "service", "group", "role", "team", "severity"],
    )
    egress = table(
        "Addresses to allow in the firewall",
        "Probes come from these addresses. When the reason is `timeout`, `rejected` or `prohibited`, check that the target's firewall lets them in.",
        ['max by (region, address) (tcp_probe_exporter_egress_info{region=~"$region"})'],
        [column("region", "Region"), column("address", "Address")],
        ["region", "address"],
    )
    explained = table(
        "Where the path ends",
        "While it is down, seen from each region: how the path to it ends, how many hops answered, and what the counter-checks point at. A hint, never a verdict.",
        [
            f"count by (region, end) (tcp_monitor_path_info{{{HERE}}})",
            f"max by (region) (tcp_monitor_path_hops{{{HERE}}})",
            f"count by (region, hint) (tcp_monitor_hint_info{{{HERE}}})",
        ],
        [
            column("region", "Region"),
            column("end", "Ends with"),
            column("Value #B", "Hops", unit="none"),
            column("hint", "Hint"),
        ],
        ["region", "end", "Value #B", "hint"],
        noValue="Not down, or not traced",
    )
    addresses = timeline(
        "Addresses behind the name",
        "The last outcome of every address, where the monitor probes them all (`addresses: all`, `any` or `quorum`): shows which member is sick.",
        [
            (
                f"min by (region, address) (tcp_monitor_address_success{{{HERE}}})",
                "{{region}}: {{address}}",
            )
        ],
        {"0": ("Failure", RED), "1": ("Success", GREEN)},
    )
    application = timeline(
        "HTTP checks of the same service",
        "Whether the application behind the port answers: checks of blackbox_exporter with the same `service` label. Port up and application down is a broken application; port down and application up is a firewall, or a false alarm. Empty without such checks.",
        [
            (
                f'max by (monitor, target, region) (probe_success{{module=~"http.*"}} and on (service) target:tcp_monitor_info:labels{{{THIS}, service!=""}})',
                "{{region}} {{target}}",
            )
        ],
        {"0": ("Failure", RED), "1": ("Success", GREEN)},
    )
    firing = timeline(
        "Alerts",
        "Alerts of this target over the chosen time, pending ones included.",
        [
            (
                f"count by (alertname, alertstate) (ALERTS{{{THIS}}}) ^ 0",
                "{{alertname}} {{alertstate}}",
            )
        ],
        {"1": ("Active", RED)},
    )
    info = "target:tcp_monitor_info:labels"
    return dashboard(
        "tcp-monitor-target",
        "TCP monitors / Target",
        "One target: what fails, from where, since when, why, and what to do.",
        [
            variable(
                "monitor",
                "Monitor",
                f"label_values({info}, monitor)",
                "The configured entry; All for targets of on-scrape jobs, which have none.",
                multi=False,
            ),
            variable(
                "target",
                "Target",
                f'label_values({info}{{monitor=~"$monitor"}}, target)',
                "One host:port.",
                multi=False,
                everything=False,
            ),
            variable(
                "region",
                "Region",
                'label_values(region_target:tcp_monitor_up:last{target="$target"}, region)',
                "Where to look from.",
            ),
            window(),
        ],
        [
            ("Now", [(4, [4, 4, 5, 3, 4, 4], heads), (7, [15, 9], [by_region, egress]), (5, [24], [explained])]),
            ("Over time", [(7, [12, 12], [verdicts, outcomes]), (7, [6, 6, 6, 6], [reasons, addresses, application, firing])]),
            (
                "Time it takes",
                [
                    (8, [12, 12], [quantiles, heat]),
                    (8, [12, 12], [rtt, retransmits]),
                    (8, [12, 12], [probes, phases]),
                ],
            ),
            (
                "Policy and certificate",
                [(5, [8, 4, 4, 8], [policy, confirmation, objective, labels]), (6, [24], [certificate])],
            ),
        ],
        [
            alerts(
                "Alerts",
                'ALERTS{alertname=~"TcpMonitor.*", alertstate="firing", target="$target"}',
            )
        ],
    )


# --- regions ------------------------------------------------------------------------------------


def regions():
    there = 'region=~"$region"'
    lonely = f"(region_target:tcp_monitor_up:fresh{{{there}}} == 0) unless {SAME_TARGET} target:tcp_monitor_down:info"
    heads = [
        stat(
            "Targets up by region",
            "Share of the targets that a region holds up.",
            f"avg by (region) (region_target:tcp_monitor_up:fresh{{{there}}})",
            "percentunit",
            "{{region}}",
            decimals=1,
            steps=thresholds(RED, (0.5, AMBER), (0.99, GREEN)),
        ),
        stat(
            "Failing only there",
            "Targets that a region holds down while the quorum does not: routing, a firewall or a fault of that region.",
            f"count by (region) ({lonely}) or 0 * count by (region) (region_target:tcp_monitor_up:fresh{{{there}}})",
            "none",
            "{{region}}",
            steps=thresholds(GREEN, (1, AMBER)),
        ),
        stat(
            "Cut off",
            "Whether every canary of a region fails at this moment. Its failures are then inconclusive and count against nobody.",
            f"max by (region) (tcp_probe_exporter_isolated{{{there}}})",
            "none",
            "{{region}}",
            words=ISOLATED,
        ),
        stat(
            "Short of a quorum",
            "Targets that fewer regions watch freshly than must agree: an outage of theirs may go unconfirmed.",
            "count(target:tcp_monitor_regions_fresh:count < target:tcp_monitor_required_regions:max) or vector(0)",
            "none",
            steps=thresholds(GREEN, (1, AMBER)),
        ),
    ]
    matrix = table(
        "Target by region",
        "What each region last held to be true of each target that one of them holds down, or that fewer regions watch than must agree.",
        [
            f"region_target:tcp_monitor_up:last{{{there}}} and {SAME_TARGET} ("
            "target:tcp_monitor_regions_down:last > 0"
            " or target:tcp_monitor_regions_fresh:count < target:tcp_monitor_required_regions:max)"
        ],
        [
            {
                "matcher": {"id": "byRegexp", "options": "^(?!target).*"},
                "properties": [
                    {"id": "mappings", "value": mappings(UP)},
                    {"id": "custom.cellOptions", "value": COLOURED},
                ],
            }
        ],
        [],
        transformations=[
            {
                "id": "groupingToMatrix",
                "options": {"columnField": "region", "rowField": "target", "valueField": "Value"},
            }
        ],
        noValue="Every region holds every target up",
    )
    quorum = table(
        "Quorum",
        "For every target: regions that look freshly, that hold it down, and that must agree. Fewer looking than needed is a gap in the watch.",
        [
            "target:tcp_monitor_down:quorum",
            "target:tcp_monitor_regions_fresh:count",
            "target:tcp_monitor_regions_down:last",
            "target:tcp_monitor_required_regions:max",
        ],
        [
            column("monitor", "Monitor", links=to_target()),
            column("target", "Target", links=to_target()),
            words_column("Value #A", "Verdict", DOWN, custom__width=90),
            column("Value #B", "Looking", unit="none"),
            column("Value #C", "Down", unit="none"),
            column("Value #D", "Needed", unit="none"),
        ],
        ["monitor", "target", "Value #A", "Value #B", "Value #C", "Value #D"],
        sort=("Verdict", True),
    )
    share = series(
        "Targets up",
        "Share of the targets that each region holds up.",
        [(f"avg by (region) (region_target:tcp_monitor_up:fresh{{{there}}})", "{{region}}")],
        "percentunit",
        max=1,
        fill=0,
    )
    alone = series(
        "Failing only there",
        "Targets that one region holds down against the quorum.",
        [
            (
                f"count by (region) ({lonely}) or 0 * count by (region) (region_target:tcp_monitor_up:fresh{{{there}}})",
                "{{region}}",
            )
        ],
        min=0,
    )
    blind = series(
        "Probes that could not look",
        "Share of inconclusive probes: the region's own firewall, routes, limits or isolation.",
        [
            (
                f'sum by (region) (rate(tcp_probe_exporter_probes_total{{{there}, outcome="inconclusive"}}[$__rate_interval]))'
                f" / (sum by (region) (rate(tcp_probe_exporter_probes_total{{{there}}}[$__rate_interval])) > 0)",
                "{{region}}",
            )
        ],
        "percentunit",
        min=0,
    )
    rtt = series(
        "Round trip",
        "Median of the kernel's handshake round trips over all targets of a region. All targets slower at once is the region's way out.",
        [
            (
                f'quantile by (region) (0.5, tcp_monitor_rtt_seconds{{{there}}} or probe_tcp_rtt_seconds{{{there}, target!=""}})',
                "{{region}}",
            )
        ],
        "s",
        min=0,
        fill=0,
    )
    age = series(
        "Age of the oldest evidence",
        "How many intervals ago a region last looked, worst target of each. Above two, the region does not keep up.",
        [
            (
                f"max by (region) ((time() - tcp_monitor_last_probe_timestamp_seconds{{{there}}})"
                f" / on (region, job, instance, monitor, target) ({policy_of('interval_seconds', there)}))",
                "{{region}}",
            )
        ],
        "none",
        min=0,
        fill=0,
    )
    exporters = timeline(
        "Exporters",
        "Whether Prometheus could scrape each exporter.",
        [
            (
                f"max by (region, instance) (up{{{there}}} and on (job, instance) last_over_time(tcp_probe_exporter_build_info[$__range]))",
                "{{region}} {{instance}}",
            )
        ],
        {"0": ("Unreachable", RED), "1": ("Scraped", GREEN)},
    )
    egress = table(
        "Addresses to allow in firewalls",
        "Probes of each region come from these addresses.",
        [f"max by (region, address) (tcp_probe_exporter_egress_info{{{there}}})"],
        [column("region", "Region"), column("address", "Address")],
        ["region", "address"],
    )
    return dashboard(
        "tcp-monitor-regions",
        "TCP monitors / Regions",
        "What each region sees, whether the regions agree, and whether there are enough of them.",
        [
            variable(
                "region",
                "Region",
                "label_values(region_target:tcp_monitor_up:last, region)",
                "Where to look from.",
            )
        ],
        [
            ("Now", [(5, [8, 6, 6, 4], heads), (10, [12, 12], [matrix, quorum])]),
            (
                "Over time",
                [(8, [8, 8, 8], [share, alone, blind]), (8, [8, 8, 8], [rtt, age, exporters])],
            ),
            ("Firewalls", [(6, [24], [egress])]),
        ],
        [alerts("Alerts of regions", 'ALERTS{alertname=~"TcpMonitor.*Region.*", alertstate="firing"}', AMBER)],
    )


# --- exporter -----------------------------------------------------------------------------------


def exporter():
    own = 'job=~"$job", instance=~"$instance"'
    heads = [
        stat(
            "Scraped",
            "Whether Prometheus reaches the exporters. The worst of the chosen ones.",
            f"min(up{{{own}}})",
            "none",
            words=YES,
        ),
        stat(
            "Configuration",
            "Whether the last reload succeeded. If not, the previous configuration is still in force and the log says why.",
            f"min(tcp_probe_exporter_config_last_reload_successful{{{own}}})",
            "none",
            words={"0": ("Refused", RED), "1": ("Loaded", GREEN)},
        ),
        stat(
            "Loaded",
            "Time since a configuration was last loaded.",
            f"time() - min(tcp_probe_exporter_config_last_reload_success_timestamp_seconds{{{own}}})",
            "s",
            fill="none",
        ),
        stat(
            "Targets",
            "Targets on a schedule.",
            f"sum(tcp_probe_exporter_targets{{{own}}})",
            "none",
            fill="none",
        ),
        stat(
            "Isolated",
            "Exporters whose canaries all fail: they see nothing and say so.",
            f"sum(tcp_probe_exporter_isolated{{{own}}}) or vector(0)",
            "none",
            steps=thresholds(GREEN, (1, RED)),
        ),
        stat(
            "Descriptors in use",
            "Share of the descriptor limit, worst exporter. At the limit, probes become inconclusive.",
            f"max(process_open_fds{{{own}}} / process_max_fds{{{own}}})",
            "percentunit",
            decimals=1,
            steps=thresholds(GREEN, (0.7, AMBER), (0.9, RED)),
        ),
    ]
    versions = table(
        "Versions",
        "Which version runs where, since when, and with which configuration: after a change, exporters of one configuration show one fingerprint.",
        [
            f"max by (region, instance, version) (tcp_probe_exporter_build_info{{{own}}})",
            f"max by (region, instance, hash) (tcp_probe_exporter_config_hash_info{{{own}}})",
            f"time() - max by (region, instance) (process_start_time_seconds{{{own}}})",
        ],
        [
            column("region", "Region"),
            column("instance", "Instance"),
            column("version", "Version"),
            column("hash", "Configuration"),
            column("Value #C", "Runs for", unit="s"),
        ],
        ["region", "instance", "version", "hash", "Value #C"],
    )
    rate = series(
        "Probes",
        "Probes per second by outcome, scheduled and on demand.",
        [
            (
                f"sum by (outcome) (rate(tcp_probe_exporter_probes_total{{{own}}}[$__rate_interval]))",
                "{{outcome}}",
            )
        ],
        "ops",
        stack=True,
        min=0,
    )
    modules = series(
        "Probes by module",
        "Probes per second of each module.",
        [
            (
                f"sum by (module) (rate(tcp_probe_exporter_probes_total{{{own}}}[$__rate_interval])) > 0",
                "{{module}}",
            )
        ],
        "ops",
        min=0,
    )
    reasons = series(
        "Failures by reason",
        "Failed probes per second by reason, against targets.",
        [
            (
                f'sum by (reason) (rate(tcp_probe_exporter_probe_failures_total{{{own}, reason!~"local_.*"}}[$__rate_interval])) > 0',
                "{{reason}}",
            )
        ],
        "ops",
        stack=True,
        min=0,
    )
    faults = series(
        "Faults of this machine",
        "Probes per second that could not look, by reason. They change no verdict; the people who run the exporter should look.",
        [
            (
                f'sum by (reason) (rate(tcp_probe_exporter_probe_failures_total{{{own}, reason=~"local_.*"}}[$__rate_interval])) > 0',
                "{{reason}}",
            )
        ],
        "ops",
        stack=True,
        min=0,
    )
    flight = series(
        "Probes in flight",
        "Started and not yet ended. It rises to rate x timeout when many targets swallow packets; the limit follows from the descriptors.",
        [
            (f"tcp_probe_exporter_probes_in_flight{{{own}}}", "{{instance}}"),
            (f"tcp_probe_exporter_probes_in_flight_limit{{{own}}}", "{{instance}} limit"),
        ],
        min=0,
    )
    late = series(
        "Lateness of starts",
        "How long after its time a scheduled probe started. It is measured so that it is never charged to a target; seconds mean too little CPU.",
        [
            (
                f"histogram_quantile({q}, sum by (le) (rate(tcp_probe_exporter_start_lateness_seconds_bucket{{{own}}}[$__rate_interval])))",
                f"p{int(q * 100)}",
            )
            for q in (0.5, 0.99)
        ],
        "s",
        min=0,
        fill=0,
    )
    heat = heatmap(
        "Lateness of starts, all of them",
        "How many scheduled probes started how late.",
        f"sum by (le) (increase(tcp_probe_exporter_start_lateness_seconds_bucket{{{own}}}[$__rate_interval]))",
    )
    skipped = series(
        "Not probed",
        "Runs skipped because their predecessor had not ended, targets that the access rules refused, requests that came while too many probes were in flight, and confirmed failures that were traced, or were not for want of time, per second.",
        [
            (
                f"sum by (instance) (rate(tcp_probe_exporter_explanations_total{{{own}}}[$__rate_interval]))",
                "traced {{instance}}",
            ),
            (
                f"sum by (instance) (rate(tcp_probe_exporter_failures_unexplained_total{{{own}}}[$__rate_interval]))",
                "not traced {{instance}}",
            ),
            (
                f"sum by (instance) (rate(tcp_probe_exporter_runs_skipped_total{{{own}}}[$__rate_interval]))",
                "{{instance}} skipped",
            ),
            (
                # A rule that never refused anything has no series.
                f"sum by (instance) (rate(tcp_probe_exporter_targets_refused_total{{{own}}}[$__rate_interval]))"
                f" or 0 * max by (instance) (tcp_probe_exporter_probes_in_flight{{{own}}})",
                "{{instance}} refused",
            ),
            (
                f"sum by (instance) (rate(tcp_probe_exporter_probes_shed_total{{{own}}}[$__rate_interval]))",
                "{{instance}} turned away",
            ),
        ],
        "ops",
        min=0,
    )
    cpu = series(
        "CPU",
        "Cores in use, kernel time included. Probing costs little; TLS costs most of it.",
        [(f"rate(process_cpu_seconds_total{{{own}}}[$__rate_interval])", "{{instance}}")],
        "none",
        min=0,
    )
    memory = series(
        "Memory",
        "Resident memory. It should be flat once every target was probed.",
        [(f"process_resident_memory_bytes{{{own}}}", "{{instance}}")],
        "bytes",
        min=0,
    )
    descriptors = series(
        "Descriptors",
        "Open descriptors beside their limit.",
        [
            (f"process_open_fds{{{own}}}", "{{instance}} open"),
            (f"process_max_fds{{{own}}}", "{{instance}} limit"),
        ],
        min=0,
        fill=0,
    )
    scrape = series(
        "Scrapes",
        "How long Prometheus takes to read `/metrics`.",
        [(f"scrape_duration_seconds{{{own}}}", "{{instance}}")],
        "s",
        min=0,
    )
    return dashboard(
        "tcp-monitor-exporter",
        "TCP monitors / Exporter",
        "Whether the exporters themselves are well: rate, lateness, faults of their own machine, limits, configuration.",
        [
            variable(
                "job",
                "Job",
                "label_values(tcp_probe_exporter_build_info, job)",
                "The scrape job of the exporters.",
            ),
            variable(
                "instance",
                "Instance",
                'label_values(tcp_probe_exporter_build_info{job=~"$job"}, instance)',
                "One exporter or several.",
            ),
        ],
        [
            ("Now", [(4, [4, 4, 4, 4, 4, 4], heads), (6, [24], [versions])]),
            ("Work", [(8, [8, 8, 8], [rate, modules, reasons])]),
            (
                "Timeliness and faults",
                [(8, [8, 8, 8], [faults, flight, skipped]), (8, [12, 12], [late, heat])],
            ),
            ("Resources", [(8, [6, 6, 6, 6], [cpu, memory, descriptors, scrape])]),
        ],
        [alerts("Alerts of exporters", 'ALERTS{alertname=~"TcpMonitorExporter.*", alertstate="firing"}', AMBER)],
    )


# --- the layout as a picture --------------------------------------------------------------------

SKETCH = {
    "stat": "number",
    "table": "table",
    "timeseries": "lines",
    "state-timeline": "timeline",
    "heatmap": "heatmap",
    "bargauge": "bars",
}


def sketch(board):
    """Draws where the panels are. A drawing of the layout, and not what Grafana would show."""
    column, line = 40, 13
    height = max(it["gridPos"]["y"] + it["gridPos"]["h"] for it in board["panels"]) * line
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {24 * column} {height}" '
        'font-family="sans-serif" font-size="11">',
        f"<title>Layout of {html.escape(board['title'])}</title>",
        f'<rect width="{24 * column}" height="{height}" fill="#f4f5f5"/>',
    ]
    for each in board["panels"]:
        at = each["gridPos"]
        x, y = at["x"] * column, at["y"] * line
        w, h = at["w"] * column, at["h"] * line
        title = html.escape(each["title"])
        if each["type"] == "row":
            parts.append(f'<text x="6" y="{y + 10}" font-weight="bold" fill="#24292e">{title}</text>')
            continue
        parts.append(
            f'<rect x="{x + 2}" y="{y + 2}" width="{w - 4}" height="{h - 4}" rx="3" fill="#fff" stroke="#c7d0d9"/>'
            f'<text x="{x + 8}" y="{y + 15}" fill="#24292e">{title}</text>'
            f'<text x="{x + w / 2:g}" y="{y + h / 2 + 10:g}" text-anchor="middle" fill="#8e9aa8">'
            f"{SKETCH[each['type']]}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


def main():
    default = pathlib.Path(__file__).resolve().parents[2] / "dashboards"
    directory = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    directory.mkdir(parents=True, exist_ok=True)
    for build in (overview, target, regions, exporter):
        board = build()
        text = json.dumps(board, indent=2, ensure_ascii=False) + "\n"
        (directory / f"{build.__name__}.json").write_text(text, encoding="utf-8")
        pictures = directory / "pictures"
        pictures.mkdir(exist_ok=True)
        (pictures / f"{build.__name__}.svg").write_text(sketch(board), encoding="utf-8")


if __name__ == "__main__":
    main()
