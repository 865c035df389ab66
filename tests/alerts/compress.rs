//! The shipped files with every duration divided, so that a story of minutes takes seconds.

/// Divides the durations of a rule file: windows, offsets, `for`, `interval`, and the products
/// like `5 * 60` in which the rules write seconds.
pub(crate) fn rules(text: &str, factor: u64) -> String {
    text.lines()
        .map(|line| {
            let line = match line.split_once(": ") {
                Some((key, value)) if ["for", "interval"].contains(&key.trim()) => {
                    format!("{key}: {}", divide(value, factor))
                }
                _ => line.to_owned(),
            };
            let line = windows(&line, factor);
            products(&line, factor) + "\n"
        })
        .collect()
}

/// Divides the durations of Alertmanager's configuration.
pub(crate) fn alertmanager(text: &str, factor: u64) -> String {
    text.lines()
        .map(|line| match line.split_once(": ") {
            Some((key, value))
                if ["group_wait", "group_interval", "repeat_interval"].contains(&key.trim()) =>
            {
                format!("{key}: {}\n", divide(value, factor))
            }
            _ => format!("{line}\n"),
        })
        .collect()
}

fn seconds(duration: &str) -> Option<u64> {
    let (number, unit) = duration.split_at_checked(duration.len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    Some(number.parse::<u64>().ok()? * unit)
}

/// A duration divided, at least a millisecond; anything else as it is.
fn divide(duration: &str, factor: u64) -> String {
    match seconds(duration) {
        Some(0) | None => duration.to_owned(),
        Some(it) => format!("{}ms", (it * 1000 / factor).max(1)),
    }
}

/// `[15m]` and `offset 5m`.
fn windows(line: &str, factor: u64) -> String {
    let mut words = String::new();
    let mut rest = line;
    while let Some(start) = rest.find('[') {
        let Some(end) = rest[start..].find(']') else { break };
        words.push_str(&rest[..=start]);
        words.push_str(&divide(&rest[start + 1..start + end], factor));
        rest = &rest[start + end..];
    }
    words.push_str(rest);
    match words.split_once("offset ") {
        Some((before, after)) => format!("{before}offset {}", divide(after, factor)),
        None => words,
    }
}

/// `+ 1 * 60`, `>= 24 * 60 * 60`.
fn products(line: &str, factor: u64) -> String {
    match line.split_once(" * 60") {
        Some((before, after)) => {
            let hours = after.matches(" * 60").count();
            let start = before.rfind(' ').map_or(0, |it| it + 1);
            let Ok(number) = before[start..].parse::<u64>() else { return line.to_owned() };
            let minutes = if hours > 0 { number * 60 } else { number };
            let after = after.replace(" * 60", "");
            format!("{}({minutes} * 60 / {factor}){after}", &before[..start])
        }
        None => line.to_owned(),
    }
}

#[test]
fn durations_are_divided_and_nothing_else() {
    for (line, expected) in [
        ("        for: 2m", "        for: 8000ms"),
        ("last_over_time(x[15m]) or y[1h]", "last_over_time(x[60000ms]) or y[240000ms]"),
        ("and x:count offset 5m", "and x:count offset 20000ms"),
        ("<= 2 * a + b + 1 * 60", "<= 2 * a + b + (1 * 60 / 15)"),
        ("time() - x >= 24 * 60 * 60", "time() - x >= (1440 * 60 / 15)"),
        (r"host: '\[?([^\]]+)\]?'", r"host: '\[?([^\]]+)\]?'"),
        ("0.5 * x", "0.5 * x"),
    ] {
        assert_eq!(rules(line, 15), format!("{expected}\n"));
    }
    assert_eq!(alertmanager("  group_wait: 30s", 15), "  group_wait: 2000ms\n");
    assert_eq!(alertmanager("  group_wait: 0s", 15), "  group_wait: 0s\n");
}
