//! Load on the appointments server by clients of every kind, while its traffic is switched.
//!
//! What must stay true: nothing that a client could notice passes in silence. Every answer is checked, for what it says and for
//! who gave it; what is no valid answer is told in words, and no request that was sent is sent again, but by
//! clients that are told to persist, and then it is counted.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bg_runtime::Color;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
};

/// How many clients of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Search in a session of 2025-11-25, on a connection that is kept.
    pub sessions: usize,
    /// Search and list the tools in turn, without a session.
    pub stateless: usize,
    /// Book appointments, each a slot of its own. Every second call names itself with an idempotency key; one of the others
    /// that was made twice says so.
    pub writers: usize,
    /// Open a session and keep its own stream open.
    pub streams: usize,
    /// Read every widget whose address was ever listed.
    pub widgets: usize,
}

/// Clients at work. Dropping it ends them.
#[derive(Debug)]
pub struct Load {
    clients: JoinSet<()>,
    stop: watch::Sender<bool>,
    shared: Arc<Shared>,
}

/// How far the clients are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Calls that were answered.
    pub answered: u64,
    /// Who answered last.
    pub color: Option<Color>,
    /// Streams that were opened, for the first time or again.
    pub streams_opened: u64,
    /// What was no valid answer.
    pub errors: u64,
    /// Clients that were answered once.
    begun: usize,
}

/// One answered call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it was made.
    pub at: Instant,
    /// From then until its answer was there whole.
    pub took: Duration,
    /// Who answered.
    pub color: Color,
}

/// What the clients met.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The calls that were answered, in the order of their answers. `initialize` is one, opening a stream is not.
    pub calls: Vec<Call>,
    /// How often a stream was opened, for the first time or again.
    pub streams_opened: u64,
    /// The ids of the appointments whose booking was acknowledged.
    pub booked: Vec<String>,
    /// What was no valid answer, in words.
    pub errors: Vec<String>,
    /// How often a session was opened: once for each client that has one, unless it had to begin anew.
    pub sessions_begun: u64,
    /// Requests and streams that were cut, by clients that then ask again. For others each of them is an error.
    pub cut: u64,
}

/// What all clients write down.
#[derive(Debug)]
struct Shared {
    outcome: Mutex<Outcome>,
    progress: watch::Sender<Progress>,
}

/// One client.
#[derive(Debug)]
struct Client {
    /// For its errors.
    name: String,
    /// Whose appointments it reads or books. Writers have a user each; readers look at what they book.
    user: String,
    address: SocketAddr,
    /// Of every request of its, as whole lines: its session.
    headers: String,
    /// A connection that is kept, between two calls.
    wire: Option<Wire>,
    /// How many requests it has made; the id of the last one.
    asked: u64,
    begun: bool,
    /// Asks again, under the same key, what was cut.
    persists: bool,
    /// Before the next step.
    pause: Duration,
    stop: watch::Receiver<bool>,
    shared: Arc<Shared>,
}

/// A valid answer.
#[derive(Debug)]
struct Answer {
    head: Head,
    result: Value,
}

/// A connection, and what has come on it and was not read yet.
#[derive(Debug)]
struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

/// The head of an answer.
#[derive(Debug)]
struct Head {
    status: u16,
    text: String,
}

/// Between two calls of a client, so that two cores are enough for all.
const PACE: Duration = Duration::from_millis(2);
/// After an error, so that a server that is gone is not told of in a thousand lines.
const AFTER_AN_ERROR: Duration = Duration::from_millis(50);
/// Before a stream that ended is opened again. Servers ask for more; a test has less time.
const BEFORE_REOPENING: Duration = Duration::from_millis(100);

/// A call that is held while traffic is switched is answered within this, too.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);
/// How long a test waits for clients to get on.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many appointments a search finds at most. The first ones stay the first ones, because writers book later slots.
const FOUND_AT_MOST: usize = 5;
/// How long a client that persists asks again.
const PERSISTS_FOR: Duration = Duration::from_secs(30);
/// The length of an appointment, and from one to the next.
const SLOT_MINUTES: u64 = 5;
const SLOTS_AN_HOUR: u64 = 60 / SLOT_MINUTES;

/// The tools that both colors have.
const TOOLS: [&str; 4] = ["search_appointments", "book_appointment", "reschedule_appointment", "cancel_appointment"];

/// How much of an answer is told in an error, in bytes.
const EXCERPT: usize = 400;

/// Loads of one process on one database book for other users.
static NEXT: AtomicU32 = AtomicU32::new(0);

// === impl Mix ===

impl Default for Mix {
    fn default() -> Self {
        Self { sessions: 2, stateless: 2, writers: 2, streams: 2, widgets: 1 }
    }
}

impl Mix {
    fn clients(&self) -> usize {
        self.sessions + self.stateless + self.writers + self.streams + self.widgets
    }
}

// === impl Load ===

impl Load {
    /// Sets clients to work on a server, or on what stands in front of it. Comes back once each of them has been answered once.
    ///
    /// # Panics
    /// When one of them is not answered within a minute.
    pub async fn start(address: SocketAddr, mix: Mix) -> Self {
        Self::of(address, mix, false).await
    }

    /// The same, of clients that ask again what was cut: where processes are killed with calls in flight, nothing else can be
    /// had. They book under a key each, so that nothing is booked twice.
    ///
    /// # Panics
    /// When one of them is not answered within a minute.
    pub async fn persistent(address: SocketAddr, mix: Mix) -> Self {
        Self::of(address, mix, true).await
    }

    async fn of(address: SocketAddr, mix: Mix, persists: bool) -> Self {
        let run = format!("load-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let shared = Arc::new(Shared { outcome: Mutex::default(), progress: watch::Sender::new(Progress::default()) });
        let stop = watch::Sender::new(false);
        let client = |kind: &str, n: usize| {
            let user = format!("{run}-{}", n % mix.writers.max(1));
            Client::new(format!("{kind} {n}"), user, address, persists, stop.subscribe(), shared.clone())
        };
        let mut clients = JoinSet::new();
        for n in 0..mix.sessions {
            clients.spawn(client("session", n).search_in_a_session());
        }
        for n in 0..mix.stateless {
            clients.spawn(client("stateless client", n).search_and_list());
        }
        for n in 0..mix.writers {
            clients.spawn(client("writer", n).book());
        }
        for n in 0..mix.streams {
            clients.spawn(client("stream", n).listen());
        }
        for n in 0..mix.widgets {
            clients.spawn(client("widget host", n).read_widgets());
        }
        let load = Self { clients, stop, shared };
        load.until("each client is answered once", |progress| progress.begun == mix.clients()).await;
        load
    }

    /// How many calls have been answered.
    pub fn answered(&self) -> u64 {
        self.shared.progress.borrow().answered
    }

    /// Who answered last.
    pub fn last_color(&self) -> Option<Color> {
        self.shared.progress.borrow().color
    }

    /// How far the clients are, at every moment.
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    /// Waits until so many calls more have been answered.
    ///
    /// # Panics
    /// When that takes longer than a minute.
    pub async fn more(&self, calls: u64) {
        let wanted = self.answered() + calls;
        self.until(&format!("{calls} calls more are answered"), |progress| progress.answered >= wanted).await;
    }

    /// Waits until the clients are so far. `what` says in words how far.
    ///
    /// # Panics
    /// When that takes longer than a minute.
    pub async fn until(&self, what: &str, condition: impl FnMut(&Progress) -> bool) {
        let mut progress = self.watch();
        let is_so_far = tokio::time::timeout(PATIENCE, progress.wait_for(condition)).await.is_ok();
        assert!(is_so_far, "it took too long until {what}: {}", self.shared.outcome().in_words());
    }

    /// Lets each client finish the call that it is at, and says what they met.
    pub async fn stop(mut self) -> Outcome {
        self.stop.send_replace(true);
        while let Some(ended) = self.clients.join_next().await {
            if let Err(failure) = ended {
                self.shared.outcome().errors.push(format!("a client ended by itself: {failure}"));
            }
        }
        std::mem::take(&mut *self.shared.outcome())
    }
}

// === impl Outcome ===

impl Outcome {
    /// How long the calls took that were made between two moments: 99 of a hundred were answered within this. `None` when no
    /// call was made then.
    pub fn p99(&self, from: Instant, to: Instant) -> Option<Duration> {
        let then = self.calls.iter().filter(|call| (from..=to).contains(&call.at));
        let mut took: Vec<Duration> = then.map(|call| call.took).collect();
        took.sort_unstable();
        let rank = (took.len() * 99).div_ceil(100);
        took.get(rank.checked_sub(1)?).copied()
    }

    /// Nothing was lost, doubled or answered wrongly.
    ///
    /// # Panics
    /// With the first errors in words, when something was.
    #[track_caller]
    pub fn assert_whole(&self) {
        assert!(self.errors.is_empty(), "{}", self.in_words());
        let mut seen = HashSet::new();
        let twice = self.booked.iter().find(|id| !seen.insert(*id));
        assert!(twice.is_none(), "two calls were answered with one appointment: {twice:?}");
    }

    fn in_words(&self) -> String {
        const FIRST: usize = 5;
        let first: Vec<&str> = self.errors.iter().take(FIRST).map(String::as_str).collect();
        let (errors, calls) = (self.errors.len(), self.calls.len());
        format!("{errors} errors beside {calls} answered calls\n  - {}", first.join("\n  - "))
    }
}

// === impl Shared ===

impl Shared {
    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().expect("nobody panics while writing down what happened")
    }
}

// === impl Client ===

impl Client {
    fn new(
        name: String,
        user: String,
        address: SocketAddr,
        persists: bool,
        stop: watch::Receiver<bool>,
        shared: Arc<Shared>,
    ) -> Self {
        let (headers, wire, asked, begun, pause) = (String::new(), None, 0, false, PACE);
        Self { name, user, address, headers, wire, asked, begun, persists, pause, stop, shared }
    }

    async fn search_in_a_session(mut self) {
        if !self.open_session().await {
            return;
        }
        let mut found = 0;
        while self.goes_on().await {
            let step = self.search(&mut found).await;
            self.note(step);
        }
    }

    async fn search_and_list(mut self) {
        let mut found = 0;
        let mut lists = false;
        while self.goes_on().await {
            let step = if lists { self.list_tools().await } else { self.search(&mut found).await };
            self.note(step);
            lists = !lists;
        }
    }

    async fn book(mut self) {
        // A slot whose booking was not answered may be taken, so none is asked for again.
        for n in 0.. {
            if !self.goes_on().await {
                return;
            }
            let step = self.book_slot(n).await;
            self.note(step);
        }
    }

    async fn listen(mut self) {
        if !self.open_session().await {
            return;
        }
        self.wire = None;
        while self.goes_on().await {
            let step = self.listen_to_one_stream().await;
            self.note(step);
            self.pause = BEFORE_REOPENING;
        }
    }

    async fn read_widgets(mut self) {
        let mut known = BTreeMap::new();
        while self.goes_on().await {
            let step = self.list_widgets(&mut known).await;
            self.note(step);
            for (address, first) in &mut known {
                if !self.goes_on().await {
                    return;
                }
                let step = self.read_widget(address, first).await;
                self.note(step);
            }
        }
    }

    /// Waits until it is time for the next step. Whether there is to be one.
    async fn goes_on(&mut self) -> bool {
        let pause = std::mem::replace(&mut self.pause, PACE);
        tokio::time::timeout(pause, self.stop.wait_for(|is_over| *is_over)).await.is_err()
    }

    /// Writes down how a step went.
    fn note(&mut self, step: Result<(), String>) {
        match step {
            Ok(()) => self.begin(),
            Err(words) => {
                self.pause = AFTER_AN_ERROR;
                self.shared.outcome().errors.push(format!("{}: {words}", self.name));
                self.shared.progress.send_modify(|progress| progress.errors += 1);
            }
        }
    }

    /// The client has been answered.
    fn begin(&mut self) {
        if !std::mem::replace(&mut self.begun, true) {
            self.shared.progress.send_modify(|progress| progress.begun += 1);
        }
    }

    /// Opens the one session that the client has, however often it takes. Whether there is still something to do in it.
    async fn open_session(&mut self) -> bool {
        let params =
            json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "load", "version": "1" } });
        while self.goes_on().await {
            let opened = self.ask("initialize", params.clone()).await.and_then(|answer| {
                let session = answer.head.header("mcp-session-id").map(str::to_owned);
                session.ok_or_else(|| format!("initialize opened no session: {}", answer.head.text))
            });
            match opened {
                Ok(session) => {
                    self.headers = format!("mcp-session-id: {session}\r\nmcp-protocol-version: 2025-11-25\r\n");
                    self.shared.outcome().sessions_begun += 1;
                    return true;
                }
                Err(words) => self.note(Err(words)),
            }
        }
        false
    }

    /// What was found once is found again, whoever is asked.
    async fn search(&mut self, found_before: &mut usize) -> Result<(), String> {
        let arguments = json!({ "userId": self.user, "limit": FOUND_AT_MOST });
        let result = self.call("search_appointments", &arguments, None).await?;
        let data = &result["structuredContent"]["data"];
        let found = data["appointments"].as_array().map(Vec::len);
        let is_right = |found: usize| data["userId"] == self.user && data["count"] == found && found >= *found_before;
        match found.filter(|found| is_right(*found)) {
            Some(found) => {
                *found_before = found;
                Ok(())
            }
            None => {
                let (user, said) = (&self.user, excerpt(result.to_string().as_bytes()));
                Err(format!("search_appointments of {user}, who had {found_before} before: {said}"))
            }
        }
    }

    async fn list_tools(&mut self) -> Result<(), String> {
        let result = self.ask("tools/list", json!({})).await?.result;
        let tools = result["tools"].as_array().into_iter().flatten();
        let names: Vec<&str> = tools.filter_map(|tool| tool["name"].as_str()).collect();
        match TOOLS.iter().find(|tool| !names.contains(tool)) {
            None => Ok(()),
            Some(tool) => Err(format!("tools/list: `{tool}` is missing in {names:?}")),
        }
    }

    async fn book_slot(&mut self, n: u64) -> Result<(), String> {
        let (title, starts_at) = (format!("{} {n}", self.user), slot(n));
        let arguments = json!({
            "userId": self.user,
            "title": title,
            "startsAt": starts_at,
            "durationMinutes": SLOT_MINUTES,
            "timeZone": "UTC",
        });
        let key = (n % 2 == 1 || self.persists).then_some(&*title);
        let result = self.call("book_appointment", &arguments, key).await?;
        let appointment = &result["structuredContent"]["data"]["appointment"];
        // One that was there already says something else.
        let is_new = result["content"][0]["text"].as_str().is_some_and(|text| text.starts_with("Booked: "));
        match appointment["id"].as_str() {
            Some(id) if is_new && appointment["title"] == title && appointment["startsAt"] == starts_at => {
                self.shared.outcome().booked.push(id.to_owned());
                Ok(())
            }
            _ => {
                let said = excerpt(result.to_string().as_bytes());
                Err(format!("book_appointment of {title:?} at {starts_at} was answered with {said}"))
            }
        }
    }

    /// Opens the session's own stream, and hears it until it ends, or until the load does.
    async fn listen_to_one_stream(&mut self) -> Result<(), String> {
        let request = format!("GET /mcp HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n{}\r\n", self.address, self.headers);
        let opened = async {
            let mut wire = Wire::open(self.address).await?;
            wire.send(request.as_bytes()).await?;
            let head = wire.head().await?;
            Ok::<_, String>((wire, head))
        };
        let opened = tokio::time::timeout(ANSWERED_WITHIN, opened).await;
        let (mut wire, head) = match opened.unwrap_or_else(|_| Err(format!("no stream within {ANSWERED_WITHIN:?}"))) {
            Err(_) if self.persists => {
                self.shared.outcome().cut += 1;
                return Ok(());
            }
            opened => opened?,
        };
        let is_stream = head.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
        if head.status != 200 || !is_stream || !head.is_chunked() {
            return Err(format!("no stream was opened: {}", head.text));
        }
        head.color()?;
        self.shared.outcome().streams_opened += 1;
        self.shared.progress.send_modify(|progress| progress.streams_opened += 1);
        self.begin();
        // Of the event that has begun and has not ended.
        let mut event = Vec::new();
        let mut stop = self.stop.clone();
        loop {
            let chunk = tokio::select! {
                // There is one change.
                _ = stop.changed() => return Ok(()),
                chunk = wire.chunk() => match chunk {
                    Err(_) if self.persists => {
                        self.shared.outcome().cut += 1;
                        return Ok(());
                    }
                    chunk => chunk?,
                },
            };
            if chunk.is_empty() {
                let is_whole = event.is_empty();
                return is_whole.then_some(()).ok_or_else(|| format!("a stream ended inside an event: {}", excerpt(&event)));
            }
            event.extend_from_slice(&chunk);
            if let Some(at) = event.windows(2).rposition(|bytes| bytes == b"\n\n") {
                event.drain(..at + 2);
            }
        }
    }

    /// Adds the addresses that are listed to those that are known. One that is not read yet stands for nothing.
    async fn list_widgets(&mut self, known: &mut BTreeMap<String, Value>) -> Result<(), String> {
        let result = self.ask("resources/list", json!({})).await?.result;
        let resources = result["resources"].as_array().into_iter().flatten();
        let addresses = resources.filter_map(|resource| resource["uri"].as_str()).filter(|uri| uri.starts_with("ui://"));
        let mut listed = 0;
        for address in addresses {
            known.entry(address.to_owned()).or_default();
            listed += 1;
        }
        if listed == 0 {
            return Err(format!("resources/list shows no widget: {}", excerpt(result.to_string().as_bytes())));
        }
        Ok(())
    }

    /// What is read at an address is what was read there first.
    async fn read_widget(&mut self, address: &str, first: &mut Value) -> Result<(), String> {
        let result = self.ask("resources/read", json!({ "uri": address })).await?.result;
        let contents = &result["contents"][0];
        if contents["uri"] != address || contents["text"].as_str().is_none_or(str::is_empty) {
            return Err(format!("resources/read of {address}: {}", excerpt(result.to_string().as_bytes())));
        }
        if first.is_null() {
            *first = result;
        } else if *first != result {
            return Err(format!("resources/read of {address} gives something else than before"));
        }
        Ok(())
    }

    /// Calls a tool, under a key or without one, and gives the result.
    async fn call(&mut self, tool: &str, arguments: &Value, key: Option<&str>) -> Result<Value, String> {
        let mut params = json!({ "name": tool, "arguments": arguments });
        if let Some(key) = key {
            params["_meta"] = json!({ "mcp-server/idempotencyKey": key });
        }
        let result = self.ask("tools/call", params).await?.result;
        if result["isError"] == true {
            return Err(format!("{tool} failed at {arguments}: {}", excerpt(result.to_string().as_bytes())));
        }
        Ok(result)
    }

    /// Sends a request and reads its answer.
    async fn ask(&mut self, method: &str, params: Value) -> Result<Answer, String> {
        self.asked += 1;
        let id = self.asked;
        let said = |words: String| format!("{method} ({id}): {words}");
        let body = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string();
        let request = format!(
            "POST /mcp HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{}\r\n{body}",
            self.address,
            body.len(),
            self.headers
        );
        let at = Instant::now();
        let answered = tokio::time::timeout(ANSWERED_WITHIN, self.insist(request.as_bytes(), at)).await;
        let took = at.elapsed();
        let answered = answered.unwrap_or_else(|_| Err(format!("no answer within {ANSWERED_WITHIN:?}")));
        let (head, body) = answered.map_err(said)?;
        let (color, result) = valid(&head, &body, id).map_err(said)?;
        self.shared.outcome().calls.push(Call { at, took, color });
        self.shared.progress.send_modify(|progress| {
            progress.answered += 1;
            progress.color = Some(color);
        });
        Ok(Answer { head, result })
    }

    /// Once, or until it is not cut any more.
    async fn insist(&mut self, request: &[u8], since: Instant) -> Result<(Head, Vec<u8>), String> {
        loop {
            match self.exchange(request).await {
                Err(_) if self.persists && since.elapsed() < PERSISTS_FOR => {
                    self.shared.outcome().cut += 1;
                    tokio::time::sleep(AFTER_AN_ERROR).await;
                }
                exchanged => return exchanged,
            }
        }
    }

    /// On the connection that is kept, or on a new one when that was closed since. A connection whose last answer said
    /// `connection: close` is not kept; so whatever ends one after a request was sent on it is an error.
    async fn exchange(&mut self, request: &[u8]) -> Result<(Head, Vec<u8>), String> {
        let kept = match self.wire.take() {
            Some(wire) => wire.is_open()?.then_some(wire),
            None => None,
        };
        let mut wire = match kept {
            Some(wire) => wire,
            None => Wire::open(self.address).await?,
        };
        wire.send(request).await?;
        let head = wire.head().await?;
        let body = wire.body(&head).await?;
        self.wire = (!head.closes()).then_some(wire);
        Ok((head, body))
    }
}

// === impl Wire ===

impl Wire {
    async fn open(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await.map_err(|failure| format!("cannot connect: {failure}"))?;
        Ok(Self { stream, read: Vec::new() })
    }

    /// Whether a connection that nobody uses is still there. One that was closed cleanly is not, and that is no error.
    fn is_open(&self) -> Result<bool, String> {
        if !self.read.is_empty() {
            return Err(format!("more than an answer came: {}", excerpt(&self.read)));
        }
        match self.stream.try_read(&mut [0]) {
            Ok(0) => Ok(false),
            Ok(_) => Err("something came that nobody asked for".to_owned()),
            Err(failure) if failure.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(failure) => Err(format!("a connection broke while nobody used it: {failure}")),
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).await.map_err(|failure| format!("a request could not be sent: {failure}"))
    }

    async fn head(&mut self) -> Result<Head, String> {
        let text = self.up_to(b"\r\n\r\n", "the head of an answer").await?;
        let text = String::from_utf8_lossy(&text).into_owned();
        match text.split(' ').nth(1).and_then(|status| status.parse().ok()) {
            Some(status) => Ok(Head { status, text }),
            None => Err(format!("not the head of an answer: {text}")),
        }
    }

    async fn body(&mut self, head: &Head) -> Result<Vec<u8>, String> {
        if head.is_chunked() {
            let mut body = Vec::new();
            loop {
                let chunk = self.chunk().await?;
                if chunk.is_empty() {
                    return Ok(body);
                }
                body.extend_from_slice(&chunk);
            }
        }
        // Without a length, an answer that was cut would look like a whole one.
        let length = head.header("content-length").and_then(|length| length.parse().ok());
        let length = length.ok_or_else(|| format!("an answer without a length: {}", head.text))?;
        self.exactly(length).await
    }

    /// The next chunk of a body. An empty one is the end.
    async fn chunk(&mut self) -> Result<Vec<u8>, String> {
        let line = self.line().await?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| format!("not the size of a chunk: {line:?}"))?;
        if size == 0 {
            // Trailers, if there are any.
            while !self.line().await?.is_empty() {}
            return Ok(Vec::new());
        }
        let mut chunk = self.exactly(size + 2).await?;
        if !chunk.ends_with(b"\r\n") {
            return Err(format!("a chunk has no end: {}", excerpt(&chunk)));
        }
        chunk.truncate(size);
        Ok(chunk)
    }

    async fn line(&mut self) -> Result<String, String> {
        let line = self.up_to(b"\r\n", "the end of a body").await?;
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// What comes before this mark. The mark is read, too.
    async fn up_to(&mut self, mark: &[u8], what: &str) -> Result<Vec<u8>, String> {
        loop {
            if let Some(at) = self.read.windows(mark.len()).position(|bytes| bytes == mark) {
                let mut before: Vec<u8> = self.read.drain(..at + mark.len()).collect();
                before.truncate(at);
                return Ok(before);
            }
            self.more(what).await?;
        }
    }

    async fn exactly(&mut self, length: usize) -> Result<Vec<u8>, String> {
        while self.read.len() < length {
            self.more("the end of a body").await?;
        }
        Ok(self.read.drain(..length).collect())
    }

    async fn more(&mut self, what: &str) -> Result<(), String> {
        const AT_ONCE: usize = 16 * 1024;
        self.read.reserve(AT_ONCE);
        match self.stream.read_buf(&mut self.read).await {
            Ok(0) => Err(format!("the connection ended before {what}, after {:?}", excerpt(&self.read))),
            Ok(_) => Ok(()),
            Err(failure) => Err(format!("the connection broke before {what}: {failure}")),
        }
    }
}

// === impl Head ===

impl Head {
    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.text.lines().skip(1).filter_map(|line| line.split_once(':'));
        headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    fn color(&self) -> Result<Color, String> {
        let color = self.header("release-color").ok_or_else(|| format!("nobody says who answered: {}", self.text))?;
        color.parse::<Color>().map_err(|wrong| wrong.to_string())
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    }

    fn closes(&self) -> bool {
        self.header("connection").is_some_and(|said| said.eq_ignore_ascii_case("close"))
    }
}

/// Who answered, and with what result, if this is a valid answer to the request of this id.
fn valid(head: &Head, body: &[u8], id: u64) -> Result<(Color, Value), String> {
    if head.status != 200 {
        return Err(format!("status {}: {}", head.status, excerpt(body)));
    }
    let color = head.color()?;
    let mut answer: Value = serde_json::from_slice(body).map_err(|wrong| format!("{wrong}: {}", excerpt(body)))?;
    if answer["id"] != id {
        return Err(format!("the answer to another request: {}", excerpt(body)));
    }
    let result = answer.get_mut("result").map(Value::take).filter(Value::is_object);
    result.map(|result| (color, result)).ok_or_else(|| format!("{color} gave no result: {}", excerpt(body)))
}

/// When the appointment of this number begins: far from now, and when the one before is over. Months have 28 days here.
fn slot(n: u64) -> String {
    let (minute, hours) = (n % SLOTS_AN_HOUR * SLOT_MINUTES, n / SLOTS_AN_HOUR);
    let (hour, days) = (hours % 24, hours / 24);
    let (day, month, year) = (days % 28 + 1, days / 28 % 12 + 1, 2040 + days / (28 * 12));
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:00Z")
}

/// Enough to see what it was.
fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(EXCERPT)]).into_owned()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A client of a server that gives each connection one of these answers, and closes it.
    async fn client(answers: &[&str]) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
        tokio::spawn(async move {
            for answer in answers {
                let (stream, _) = listener.accept().await.unwrap();
                let mut wire = Wire { stream, read: Vec::new() };
                let head = wire.up_to(b"\r\n\r\n", "a request").await.unwrap();
                let head = Head { status: 0, text: String::from_utf8(head).unwrap() };
                if head.text.starts_with("POST") {
                    wire.body(&head).await.unwrap();
                }
                wire.send(answer.as_bytes()).await.unwrap();
            }
        });
        let shared = Arc::new(Shared { outcome: Mutex::default(), progress: watch::Sender::new(Progress::default()) });
        // Nobody is left who could stop it, and nothing that is tested here waits for that.
        Client::new("client".to_owned(), "ada".to_owned(), address, false, watch::Sender::new(false).subscribe(), shared)
    }

    fn whole(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nRelease-Color: blue\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn what_is_no_valid_answer_is_told_in_words() {
        for (answer, words) in [
            ("", "the connection ended before the head of an answer"),
            (
                "HTTP/1.1 200 OK\r\nrelease-color: blue\r\ncontent-length: 9\r\n\r\n{",
                "the connection ended before the end of a body",
            ),
            (
                "HTTP/1.1 200 OK\r\nrelease-color: blue\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
                "the connection ended before the end of a body",
            ),
            ("HTTP/1.1 200 OK\r\nrelease-color: blue\r\n\r\n{}", "an answer without a length"),
            ("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n", "status 502"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "nobody says who answered"),
            (&*whole(r#"{"id":2,"result":{}}"#), "the answer to another request"),
            (&*whole(r#"{"id":1,"error":{"code":-32603}}"#), "blue gave no result"),
        ] {
            let mut client = client(&[answer]).await;
            let said = client.ask("ping", json!({})).await.unwrap_err();
            assert!(said.starts_with(&format!("ping (1): {words}")), "{said}");
            assert!(client.shared.outcome().calls.is_empty());
        }
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_between_two_calls_is_no_error() {
        let chunked = "HTTP/1.1 200 OK\r\nrelease-color: green\r\ntransfer-encoding: chunked\r\n\r\n\
            a\r\n{\"id\":2,\"r\r\nb;x=y\r\nesult\":{}}\n\r\n0\r\n\r\n";
        let mut client = client(&[&whole(r#"{"id":1,"result":{}}"#), chunked]).await;
        client.ask("ping", json!({})).await.unwrap();
        while client.wire.as_ref().unwrap().is_open() == Ok(true) {
            tokio::task::yield_now().await;
        }
        client.ask("ping", json!({})).await.unwrap();
        let outcome = client.shared.outcome();
        let colors: Vec<Color> = outcome.calls.iter().map(|call| call.color).collect();
        assert_eq!(colors, [Color::Blue, Color::Green]);
        assert_eq!(client.shared.progress.borrow().answered, 2);
        outcome.assert_whole();
    }

    #[tokio::test]
    async fn a_stream_may_end_between_two_events_and_not_inside_one() {
        let head =
            "HTTP/1.1 200 OK\r\nrelease-color: blue\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        for (body, words) in [
            ("c\r\nretry: 250\n\n\r\n0\r\n\r\n", None),
            ("8\r\ndata: 1\n\r\n0\r\n\r\n", Some("a stream ended inside an event")),
            ("c\r\nretry: 250\n\n\r\n", Some("the connection ended before the end of a body")),
        ] {
            let mut client = client(&[&format!("{head}{body}")]).await;
            // Somebody who could stop it, and does not.
            let stop = watch::Sender::new(false);
            client.stop = stop.subscribe();
            let said = client.listen_to_one_stream().await.err();
            assert_eq!(said.is_some(), words.is_some(), "{said:?}");
            assert!(said.unwrap_or_default().starts_with(words.unwrap_or_default()));
            assert_eq!(client.shared.outcome().streams_opened, 1);
        }
    }

    #[test]
    fn no_slot_is_given_twice() {
        let slots: Vec<String> = (0..200_000).map(slot).collect();
        assert_eq!((&*slots[0], &*slots[13]), ("2040-01-01T00:00:00Z", "2040-01-01T01:05:00Z"));
        assert!(slots.is_sorted_by(|before, after| before < after));
    }

    #[test]
    fn one_call_of_a_hundred_may_take_longer() {
        let begun = Instant::now();
        let call = |n: u64| Call { at: begun + Duration::from_secs(n), took: Duration::from_millis(n), color: Color::Blue };
        let outcome = Outcome { calls: (1..=200).map(call).collect(), ..Outcome::default() };
        let p99 = |from, to| outcome.p99(begun + Duration::from_secs(from), begun + Duration::from_secs(to));
        assert_eq!(p99(1, 100), Some(Duration::from_millis(99)));
        assert_eq!(p99(1, 200), Some(Duration::from_millis(198)));
        assert_eq!(p99(7, 7), Some(Duration::from_millis(7)));
        assert_eq!(p99(201, 300), None);
    }

    #[test]
    #[should_panic(expected = "one appointment")]
    fn an_appointment_that_two_calls_got_is_not_whole() {
        Outcome { booked: vec!["a".to_owned(), "b".to_owned(), "a".to_owned()], ..Outcome::default() }.assert_whole();
    }

    #[test]
    #[should_panic(expected = "writer 0: status 502")]
    fn an_error_is_not_whole() {
        Outcome { errors: vec!["writer 0: status 502".to_owned()], ..Outcome::default() }.assert_whole();
    }
}
