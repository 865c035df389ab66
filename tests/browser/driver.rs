//! Chromium by way of the `WebDriver` protocol (<https://www.w3.org/TR/webdriver2/>), as far as
//! these tests need it.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use harness::{Process, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A page that is fetched and laid out on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The key that `WebDriver` uses for references to elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser. Dropping it ends it.
pub(crate) struct Browser {
    address: SocketAddr,
    session: String,
    _driver: Process,
    _directory: TempDir,
}

impl Browser {
    /// Starts one in which pages may run scripts, or not.
    pub(crate) fn start(scripts: bool) -> Self {
        let directory = TempDir::with_prefix("browser-").unwrap();
        let mut driver = Process::start(directory.path(), &["chromedriver", "--port=0"]);
        let port: u16 = driver.wait_output(|output| {
            output.split("on port ").last()?.trim_end().trim_end_matches('.').parse().ok()
        });
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let profile = directory.path().join("profile");
        // 2 is Chromium's word for "block".
        let setting = if scripts { 1 } else { 2 };
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {
                "args": [
                    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                    "--disable-background-networking", "--no-first-run", "--hide-scrollbars",
                    format!("--user-data-dir={}", profile.display()),
                ],
                "prefs": {"profile.managed_default_content_settings.javascript": setting},
            },
        }}});
        let mut this =
            Self { address, session: String::new(), _driver: driver, _directory: directory };
        let session = this.command("POST", "", &capabilities);
        this.session = format!("/{}", session["sessionId"].as_str().unwrap());
        this.screen(1200, 900);
        this
    }

    #[track_caller]
    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        self.attempt(method, path, body).unwrap_or_else(|err| panic!("{method} {path}: {err}"))
    }

    fn attempt(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let path = format!("/session{}{path}", self.session);
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let mut answer: Value = request(self.address, method, &path, &body)
            .map_err(|err| err.to_string())
            .and_then(|body| serde_json::from_slice(&body).map_err(|err| err.to_string()))?;
        let value = answer["value"].take();
        if value.get("error").is_some_and(Value::is_string) {
            return Err(value["message"].to_string());
        }
        Ok(value)
    }

    /// Goes to a page and waits until it is loaded.
    #[track_caller]
    pub(crate) fn open(&self, url: &str) {
        self.command("POST", "/url", &json!({"url": url}));
    }

    /// Evaluates an expression in the page.
    #[track_caller]
    pub(crate) fn eval(&self, expression: &str) -> Value {
        let script = format!("return ({expression});");
        self.command("POST", "/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub(crate) fn wait(&self, expression: &str) {
        wait_until(PATIENCE, || {
            let script = format!("return ({expression});");
            match self.attempt("POST", "/execute/sync", &json!({"script": script, "args": []})) {
                Ok(Value::Bool(true)) => Ok(()),
                other => Err(format!("`{expression}` is {other:?} on\n{:?}", self.source())),
            }
        });
    }

    /// Waits until the page at this path, to which a click led, is there as a whole.
    #[track_caller]
    pub(crate) fn wait_page(&self, path: &str) {
        self.wait(&format!("location.pathname === '{path}' && document.readyState === 'complete'"));
    }

    /// The page as it is, or why it cannot be told: it may just be replaced.
    fn source(&self) -> Result<Value, String> {
        self.attempt("GET", "/source", &Value::Null)
    }

    /// Does something with the first element of a selector. The page renews itself, so what was
    /// found may be gone by then and is looked for again.
    #[track_caller]
    fn with_element(&self, selector: &str, method: &str, what: &str, body: &Value) -> Value {
        let found = json!({"using": "css selector", "value": selector});
        wait_until(PATIENCE, || {
            let found = self.attempt("POST", "/element", &found)?;
            let element = found[ELEMENT].as_str().unwrap();
            match self.attempt(method, &format!("/element/{element}/{what}"), body) {
                Err(err) if !err.contains("stale element") => panic!("{selector}, {what}: {err}"),
                other => other,
            }
        })
    }

    /// The text of the first element of a selector, as a person reads it.
    #[track_caller]
    pub(crate) fn text(&self, selector: &str) -> String {
        let text = self.with_element(selector, "GET", "text", &Value::Null);
        text.as_str().unwrap().to_owned()
    }

    /// The accessible name of the first element of a selector.
    #[track_caller]
    pub(crate) fn name(&self, selector: &str) -> String {
        let name = self.with_element(selector, "GET", "computedlabel", &Value::Null);
        name.as_str().unwrap().to_owned()
    }

    /// Types into an element.
    #[track_caller]
    pub(crate) fn write(&self, selector: &str, text: &str) {
        self.with_element(selector, "POST", "value", &json!({"text": text}));
    }

    /// Clicks an element.
    #[track_caller]
    pub(crate) fn click(&self, selector: &str) {
        self.with_element(selector, "POST", "click", &json!({}));
    }

    /// Presses and releases a key.
    pub(crate) fn press(&self, key: &str) {
        let actions = json!({"actions": [{"type": "key", "id": "keyboard", "actions": [
            {"type": "keyDown", "value": key}, {"type": "keyUp", "value": key},
        ]}]});
        self.command("POST", "/actions", &actions);
    }

    /// Sets the size of the screen.
    pub(crate) fn screen(&self, width: u32, height: u32) {
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            &json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}),
        );
    }

    /// Prefers dark colours, or light ones.
    pub(crate) fn dark(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let features = json!([{"name": "prefers-color-scheme", "value": value}]);
        self.devtools("Emulation.setEmulatedMedia", &json!({"features": features}));
    }

    fn devtools(&self, command: &str, parameters: &Value) {
        self.command("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": parameters}));
    }

    /// Everything the console has said since it was last asked.
    pub(crate) fn console(&self) -> Vec<String> {
        let log = self.command("POST", "/se/log", &json!({"type": "browser"}));
        let lines = log.as_array().unwrap().iter();
        lines.map(|it| format!("{} {}", it["level"], it["message"])).collect()
    }

    /// A picture of the screen.
    pub(crate) fn picture(&self, file: &Path) {
        use base64::Engine as _;
        let picture = self.command("GET", "/screenshot", &Value::Null);
        let bytes = base64::prelude::BASE64_STANDARD.decode(picture.as_str().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }
}

/// One request. The driver keeps its connections open whatever it is asked, so the length of the
/// answer counts and not its end.
fn request(address: SocketAddr, method: &str, path: &str, body: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(body)
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Chromium is the driver's child: it would outlive a driver that is killed.
        let _ = self.attempt("DELETE", "", &Value::Null);
    }
}
