//! An HTTP client that costs little: keep-alive connections on threads of their own.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Sends `total` requests over `connections` and tells how long each took, sorted. With a rate
/// the requests are due at fixed moments, and what waits for its turn is late: no coordinated
/// omission.
pub(crate) fn load(
    address: SocketAddr,
    path: &str,
    connections: usize,
    total: u64,
    rate: Option<f64>,
) -> Vec<Duration> {
    let next = AtomicU64::new(0);
    let begin = Instant::now();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n");
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..connections)
            .map(|_| {
                scope.spawn(|| {
                    let mut stream = TcpStream::connect(address).expect("the server accepts");
                    stream.set_nodelay(true).expect("an option");
                    let mut times = Vec::new();
                    let mut answer = Vec::with_capacity(16 * 1024);
                    loop {
                        let number = next.fetch_add(1, Relaxed);
                        if number >= total {
                            return times;
                        }
                        let due = rate.map_or_else(Instant::now, |rate| {
                            begin + Duration::from_secs_f64(number as f64 / rate)
                        });
                        if let Some(wait) = due.checked_duration_since(Instant::now()) {
                            std::thread::sleep(wait);
                        }
                        stream.write_all(request.as_bytes()).expect("it listens");
                        exchange(&mut stream, &mut answer);
                        times.push(due.elapsed());
                    }
                })
            })
            .collect();
        workers.into_iter().flat_map(|it| it.join().expect("a worker lives")).collect()
    });
    times.sort_unstable();
    times
}

/// Reads one whole answer.
fn exchange(stream: &mut TcpStream, answer: &mut Vec<u8>) {
    answer.clear();
    let mut buffer = [0; 16 * 1024];
    loop {
        let count = stream.read(&mut buffer).expect("an answer");
        assert!(count > 0, "the server closed: {}", String::from_utf8_lossy(answer));
        answer.extend_from_slice(&buffer[..count]);
        let Some(head) = answer.windows(4).position(|it| it == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
        assert!(text.starts_with("http/1.1 200"), "{text}");
        let done = match text.split("content-length: ").nth(1) {
            Some(length) => {
                let length: usize =
                    length.split("\r\n").next().and_then(|it| it.parse().ok()).expect("a length");
                answer.len() >= head + 4 + length
            }
            None => answer.ends_with(b"0\r\n\r\n"),
        };
        if done {
            return;
        }
    }
}

/// One of a hundred was slower.
pub(crate) fn p99(times: &[Duration]) -> f64 {
    times[times.len() * 99 / 100].as_secs_f64()
}
