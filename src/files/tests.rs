use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use tempfile::TempDir;

use super::*;

/// Long enough for anything that comes at all.
const LIMIT: Duration = Duration::from_secs(30);

struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn pipe(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        path
    }

    /// Puts a text in the place of a file in one step, as editors and Kubernetes do.
    fn replace(&self, name: &str, text: &str) {
        fs::rename(self.write("new", text), self.path(name)).unwrap();
    }
}

#[track_caller]
fn check_refused(path: &Path, limit: u64, words: &str) {
    let begun = Instant::now();
    let err = read(path, limit).unwrap_err();
    assert!(err.to_string().contains(words), "{}: {err}", path.display());
    assert!(begun.elapsed() < LIMIT, "{}: {:?}", path.display(), begun.elapsed());
}

#[test]
fn only_regular_files_within_the_limit_are_read() {
    let home = Home::new();
    check_refused(&home.pipe("pipe"), MIB, "it is a pipe or a device: name a file");
    check_refused(Path::new("/dev/zero"), MIB, "it is a pipe or a device: name a file");
    check_refused(home.0.path(), MIB, "it is a directory: name a file");
    check_refused(&home.path("absent"), MIB, "No such file");
    let huge = home.write("huge", "");
    fs::File::options().write(true).open(&huge).unwrap().set_len(1 << 40).unwrap();
    check_refused(&huge, 3 * MIB, "it is larger than 3 MiB");
    assert_eq!(read(&home.write("edge", "1234"), 4).unwrap(), b"1234");
    check_refused(&home.path("edge"), 3, "it is larger than 3 bytes");
    assert_eq!(read(&home.write("empty", ""), 4).unwrap(), b"");
    // Files of the kernel say that they are empty.
    assert!(read(Path::new("/proc/self/stat"), MIB).unwrap().len() > 10);
}

#[test]
fn sources_are_current_until_a_file_changes() {
    let home = Home::new();
    let path = home.write("file", "1");
    let sources = || {
        let mut sources = Sources::default();
        sources.read(&path, MIB).ok();
        sources.note(&home.path("absent"));
        sources
    };
    let settled = || {
        let begun = Instant::now();
        loop {
            let sources = sources();
            if sources.are_current() {
                return sources;
            }
            assert!(begun.elapsed() < LIMIT, "never current: {sources:?}");
        }
    };
    assert!(!sources().are_current(), "a file written this moment may be written again unseen");
    let first = settled();
    assert!(first.are_current());

    home.replace("file", "2");
    assert!(!first.are_current());
    assert!(!first.are_same(&sources()));
    home.replace("file", "1");
    assert!(!first.are_current());
    assert!(first.are_same(&sources()), "the same content again");

    let second = settled();
    home.write("absent", "");
    assert!(!second.are_current(), "a file that was not there has come");
    fs::remove_file(&path).unwrap();
    assert!(!sources().are_same(&second));
}

#[test]
fn a_directory_is_watched_by_its_entries() {
    let home = Home::new();
    home.write("b", "");
    home.write("a", "");
    let mut sources = Sources::default();
    assert_eq!(sources.list(home.0.path()).unwrap(), ["a", "b"]);
    let version = FileVersion::of(home.0.path());
    home.write("c", "");
    assert_ne!(FileVersion::of(home.0.path()), version);
    assert!(sources.list(&home.path("a")).is_err());
}

/// A watched number, whose load hangs while `hangs` is set: on a pipe that nobody writes to.
struct Number {
    home: Home,
    hangs: Arc<AtomicBool>,
    loads: Arc<AtomicUsize>,
    watched: Watched<u32>,
}

impl Number {
    fn new(text: &str, threads: &LoadThreads) -> Self {
        let home = Home::new();
        let (path, pipe) = (home.write("number", text), home.pipe("pipe"));
        let (hangs, loads) = (Arc::new(AtomicBool::default()), Arc::new(AtomicUsize::default()));
        let (is_hanging, count) = (Arc::clone(&hangs), Arc::clone(&loads));
        let watched = Watched::new("number", threads, move |sources, _| {
            count.fetch_add(1, Ordering::Relaxed);
            if is_hanging.load(Ordering::Relaxed) {
                drop(fs::File::open(&pipe));
            }
            let text = sources.read(&path, MIB).map_err(|err| err.to_string())?;
            let text = String::from_utf8_lossy(&text);
            text.parse().map_err(|_| format!("`{text}` is no number"))
        });
        Self { home, hangs, loads, watched }
    }

    /// Lets a load that hangs go on.
    fn release(&self) {
        self.hangs.store(false, Ordering::Relaxed);
        drop(fs::File::options().write(true).open(self.home.path("pipe")).unwrap());
    }

    /// Waits until a condition holds of what readers get.
    async fn wait(&self, is_there: impl Fn(&Result<Arc<u32>, Arc<str>>) -> bool) {
        let begun = Instant::now();
        loop {
            let answer = self.watched.get().await;
            if is_there(&answer) {
                return;
            }
            assert!(begun.elapsed() < LIMIT, "{answer:?}, {:?}", self.watched.error());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn wait_error(&self, words: &str) {
        self.wait(|_| self.watched.error().is_some_and(|err| err.contains(words))).await;
    }
}

#[tokio::test]
async fn the_last_good_value_stays_until_there_is_a_better_one() {
    let number = Number::new("1", &LoadThreads::default());
    assert_eq!(number.watched.get().await, Ok(Arc::new(1)));
    for (text, words) in [("", "`` is no number"), ("1x", "`1x` is no number")] {
        number.home.replace("number", text);
        number.wait_error(words).await;
        assert_eq!(number.watched.get().await, Ok(Arc::new(1)), "{text:?}");
    }
    fs::remove_file(number.home.path("number")).unwrap();
    number.wait_error("No such file").await;
    assert_eq!(number.watched.get().await, Ok(Arc::new(1)));

    number.home.replace("number", "2");
    number.wait(|answer| *answer == Ok(Arc::new(2))).await;
    assert_eq!(number.watched.error(), None);
}

#[tokio::test]
async fn a_first_load_that_failed_is_tried_again() {
    let number = Number::new("", &LoadThreads::default());
    assert_eq!(number.watched.get().await, Err("`` is no number".into()));
    number.home.write("number", "7");
    number.wait(|answer| *answer == Ok(Arc::new(7))).await;
}

#[tokio::test]
async fn nothing_is_loaded_again_while_nothing_changes() {
    let number = Number::new("1", &LoadThreads::default());
    let first = number.watched.get().await.unwrap();
    // The file was young at first: one more load may follow, and none after that.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(3500) {
        let value = number.watched.get().await.unwrap();
        assert!(Arc::ptr_eq(&first, &value), "the same content is the same value");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(number.loads.load(Ordering::Relaxed) <= 2, "{:?}", number.loads);
}

#[tokio::test]
async fn a_hanging_file_system_holds_up_nobody_who_has_a_value() {
    let number = Number::new("1", &LoadThreads::default());
    assert_eq!(number.watched.get().await, Ok(Arc::new(1)));
    number.hangs.store(true, Ordering::Relaxed);
    number.home.replace("number", "2");
    let begun = Instant::now();
    while number.loads.load(Ordering::Relaxed) < 2 {
        assert_eq!(number.watched.get().await, Ok(Arc::new(1)));
        assert!(begun.elapsed() < LIMIT);
    }
    // It hangs now. One reader has waited half a second for news, no other does.
    number.watched.get().await.unwrap();
    let begun = Instant::now();
    for _ in 0..1000 {
        assert_eq!(number.watched.get().await, Ok(Arc::new(1)));
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(number.loads.load(Ordering::Relaxed), 2, "one thread hangs, not a thousand");
    number.release();
    number.wait(|answer| *answer == Ok(Arc::new(2))).await;
}

#[tokio::test]
async fn a_first_load_that_hangs_is_an_error_and_delays_no_other_value() {
    let threads = LoadThreads::default();
    let (slow, quick) = (Number::new("1", &threads), Number::new("2", &threads));
    slow.hangs.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    let (first, other) = tokio::join!(slow.watched.get(), async {
        let other = quick.watched.get().await;
        (other, begun.elapsed())
    });
    assert_eq!(first, Err("no answer within 5s: the file system hangs".into()));
    assert_eq!(other.0, Ok(Arc::new(2)));
    assert!(other.1 < Duration::from_secs(3), "{:?}", other.1);
    let again = Instant::now();
    assert!(slow.watched.get().await.is_err());
    assert!(again.elapsed() < Duration::from_secs(3), "told at once");
    slow.release();
    slow.wait(|answer| *answer == Ok(Arc::new(1))).await;
}

#[tokio::test]
async fn threads_that_hang_are_bounded() {
    let threads = LoadThreads::default();
    let hanging: Vec<Number> = (0..64).map(|_| Number::new("1", &threads)).collect();
    for number in &hanging {
        number.hangs.store(true, Ordering::Relaxed);
        // Polled once, to begin.
        let _ = tokio::time::timeout(Duration::from_millis(1), number.watched.get()).await;
    }
    let late = Number::new("2", &threads);
    let answer = late.watched.get().await;
    assert_eq!(answer, Err("too many files are being read: a file system hangs".into()));
    assert_eq!(late.loads.load(Ordering::Relaxed), 0);
    // Those with a bound of their own are not concerned.
    let apart = Number::new("3", &LoadThreads::default());
    assert_eq!(apart.watched.get().await, Ok(Arc::new(3)));
    for number in &hanging {
        number.release();
    }
    late.wait(|answer| *answer == Ok(Arc::new(2))).await;
}

#[tokio::test]
async fn a_load_that_panics_is_an_error_and_tried_again() {
    let panics = Arc::new(AtomicBool::new(true));
    let is_panicking = Arc::clone(&panics);
    let watched = Watched::new("number", &LoadThreads::default(), move |_, _| {
        assert!(!is_panicking.load(Ordering::Relaxed), "as wanted");
        Ok(1)
    });
    assert_eq!(watched.get().await, Err("the load did not come to an end".into()));
    panics.store(false, Ordering::Relaxed);
    assert_eq!(watched.get().await, Ok(Arc::new(1)));
}

#[tokio::test]
async fn a_loader_runs_one_job_at_a_time_and_leaves_behind_what_hangs() {
    let home = Home::new();
    let pipe = home.pipe("pipe");
    let loader = Loader::default();
    assert_eq!(loader.run(LIMIT, || 1).await, Ok(1));
    let limit = Duration::from_millis(10);
    let path = pipe.clone();
    let hangs = loader.run(limit, move || fs::read(path).map(drop).is_ok()).await;
    assert_eq!(hangs, Err("no answer within 10ms: the file system hangs".to_owned()));
    let busy = "an earlier read has not come back: the file system hangs".to_owned();
    assert_eq!(loader.run(LIMIT, || 2).await, Err(busy));
    drop(fs::File::options().write(true).open(&pipe).unwrap());
    let begun = Instant::now();
    while loader.run(LIMIT, || 3).await != Ok(3) {
        assert!(begun.elapsed() < LIMIT);
    }
    assert_eq!(within(LIMIT, || 4), Ok(4));
    assert!(within(limit, move || fs::read(pipe)).is_err_and(|err| err.contains("hangs")));
}
