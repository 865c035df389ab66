//! Damaged requests to a running exporter.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use harness::Exporter;
use proptest::prelude::*;

use crate::fuzz;
use crate::mutation::damaged;

#[test]
fn requests_are_answered_or_refused() {
    let exporter = Exporter::new(env!("CARGO_BIN_EXE_tcp_probe_exporter")).start();
    let seeds = [
        "GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: application/openmetrics-text; version=1.0.0\r\nAccept-Encoding: gzip\r\n\r\n",
        "GET /probe?target=127.0.0.1:1&module=tcp_connect HTTP/1.1\r\nHost: a\r\nX-Prometheus-Scrape-Timeout-Seconds: 1\r\n\r\n",
        "GET /logs?id=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /?q=up&state=down HTTP/1.1\r\nHost: a\r\nCookie: a=b\r\n\r\n",
        "GET /api/v1/targets HTTP/1.1\r\nHost: a\r\nIf-None-Match: *\r\n\r\n",
        "GET /sd HTTP/1.0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HEAD /config HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
    ];
    let seeds = seeds.map(str::to_owned).to_vec();
    fuzz("request", &damaged(seeds), |bytes| {
        let mut stream = TcpStream::connect(exporter.address()).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        // The server may close before everything is sent.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        if let Some(status) = text.strip_prefix("HTTP/1.1 ") {
            let status = &status[..3.min(status.len())];
            // 500 is for a time-out header that is no number, 503 for what cannot be probed.
            let known =
                status < "500" || status == "503" || text.contains("Failed to parse timeout");
            prop_assert!(known, "{}", text);
        } else {
            prop_assert!(text.is_empty() || text.starts_with("HTTP/1.0 "), "{}", text);
        }
        Ok(())
    });
    assert_eq!(exporter.get("/-/healthy").status, 200);
    assert!(!exporter.log().contains("panicked"), "{}", exporter.log());
}
