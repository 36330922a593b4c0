//! A flood of one request, with as little work for each as there can be: the bytes are made before, and of an answer only the
//! status, the length and two words are looked at. It shares the machine with whom it floods.
//!
//! It runs in a thread of its own, as does the prober, so that what one of them has to wait for the other does not measure.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream as Blocking},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// What is sent, by how many, and for how long.
#[derive(Clone, Debug)]
pub struct Flood {
    /// Whom to.
    pub address: SocketAddr,
    /// The request, as it goes over the wire.
    pub request: Arc<[u8]>,
    /// So many connections are open at once.
    pub connections: usize,
    /// So many of them are given up after each answer.
    pub fresh: usize,
    /// So many requests a second, whether they are answered or not; without it, the next one follows an answer.
    pub rate: Option<f64>,
    /// How long.
    pub lasts: Duration,
}

/// What came of it. Times are from when a request was written until its answer was there whole.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    /// How long it lasted.
    pub lasted: Duration,
    /// Answered as asked, with how long that took.
    pub accepted: Vec<Duration>,
    /// Refused with 503 or 429 and `Retry-After`.
    pub refused: Vec<Duration>,
    /// Any other end, in words.
    pub odd: Vec<String>,
    /// Not sent when it was time, because no connection was free or the flood had no processor to send with.
    pub skipped: u64,
    /// How late a connection woke up that had only slept: what the flood waited for itself.
    pub late: Vec<Duration>,
}

/// Asks `/health` every 20 ms, each time on a connection of its own.
#[derive(Debug)]
pub struct Prober {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Result<Duration, String>>>,
}

/// When each request is due, whichever connection is free to send it.
struct Schedule {
    begun: Instant,
    next: AtomicU64,
}

enum Answered {
    Accepted,
    Refused,
    Odd(String),
}

const EVERY: Duration = Duration::from_millis(20);
/// Nobody waits longer for a word of health, and no flood for an answer.
const PATIENCE: Duration = Duration::from_secs(40);

/// The time that this share of them did not take longer than. They are sorted by it.
pub fn quantile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    times.get(((times.len() as f64 * share) as usize).min(last)).copied().unwrap_or_default()
}

// === impl Flood ===

impl Flood {
    /// Lets it loose, and waits until it is over.
    pub async fn run(self) -> Flow {
        let (told, flow) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
            // Nobody waits for it any more when its test has failed.
            let _ = told.send(runtime.block_on(self.clients()));
        });
        flow.await.expect("the flood does not panic")
    }

    async fn clients(self) -> Flow {
        let schedule = Arc::new(Schedule { begun: Instant::now(), next: AtomicU64::new(0) });
        let (flood, begun) = (Arc::new(self), schedule.begun);
        let mut clients: JoinSet<Flow> =
            (0..flood.connections).map(|number| client(flood.clone(), number, schedule.clone())).collect();
        let mut all = Flow::default();
        while let Some(flow) = clients.join_next().await {
            all.add(flow.expect("a client does not panic"));
        }
        all.lasted = begun.elapsed();
        all
    }
}

async fn client(flood: Arc<Flood>, number: usize, schedule: Arc<Schedule>) -> Flow {
    let (mut flow, mut wire, mut buffer) = (Flow::default(), None, vec![0; 64 * 1024]);
    while schedule.begun.elapsed() < flood.lasts {
        if let Some(rate) = flood.rate {
            let due = schedule.next(rate, &mut flow.skipped);
            if due > Instant::now() {
                tokio::time::sleep_until(due.into()).await;
                flow.late.push(due.elapsed());
            }
        }
        match tokio::time::timeout(PATIENCE, once(&flood, &mut wire, &mut buffer)).await {
            Ok(Ok((Answered::Accepted, took))) => flow.accepted.push(took),
            Ok(Ok((Answered::Refused, took))) => flow.refused.push(took),
            Ok(Ok((Answered::Odd(words), _))) => flow.odd.push(words),
            Ok(Err(failure)) => flow.odd.push(failure.to_string()),
            Err(_) => flow.odd.push("no answer".to_owned()),
        }
        if number < flood.fresh {
            give_up(&mut wire);
        }
    }
    give_up(&mut wire);
    flow
}

/// Without the wait for late packets, of which a flood would leave more behind than there are ports.
fn give_up(wire: &mut Option<TcpStream>) {
    if let Some(stream) = wire.take() {
        let _ = stream.set_zero_linger();
    }
}

async fn once(flood: &Flood, wire: &mut Option<TcpStream>, buffer: &mut [u8]) -> io::Result<(Answered, Duration)> {
    let mut stream = match wire.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(flood.address).await?;
            stream.set_nodelay(true)?;
            stream
        }
    };
    let sent = Instant::now();
    stream.write_all(&flood.request).await?;
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended before an answer"));
        }
        filled += read;
        if let Some((answered, keeps)) = answered(&buffer[..filled]) {
            if keeps {
                *wire = Some(stream);
            }
            return Ok((answered, sent.elapsed()));
        }
    }
}

/// What an answer is, and whether its connection is kept; nothing while it is not there whole.
fn answered(bytes: &[u8]) -> Option<(Answered, bool)> {
    let end = find(bytes, b"\r\n\r\n")?;
    let (head, body) = bytes.split_at(end + 4);
    let length: usize = header(head, b"\r\ncontent-length: ").and_then(|text| text.parse().ok())?;
    if body.len() < length {
        return None;
    }
    let answered = match &head[9..12] {
        // It stands behind the data, near the end.
        b"200" if find(&body[length.saturating_sub(256)..], b"\"isError\":false").is_some() => Answered::Accepted,
        b"503" | b"429" if header(head, b"\r\nretry-after: ").is_some() => Answered::Refused,
        _ => Answered::Odd(String::from_utf8_lossy(bytes).into_owned()),
    };
    Some((answered, find(head, b"\r\nconnection: close").is_none()))
}

fn header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a str> {
    let from = find(head, name)? + name.len();
    let length = find(&head[from..], b"\r\n")?;
    std::str::from_utf8(&head[from..from + length]).ok()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, what)
}

// === impl Schedule ===

impl Schedule {
    /// When the next one is due. Those that are overdue by more than a moment are left out, and counted.
    fn next(&self, rate: f64, skipped: &mut u64) -> Instant {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let due = self.begun + Duration::from_secs_f64(number as f64 / rate);
        let behind = due.elapsed();
        if behind > EVERY {
            let missed = (behind.as_secs_f64() * rate) as u64;
            self.next.fetch_add(missed, Ordering::Relaxed);
            *skipped += missed;
        }
        due
    }
}

// === impl Flow ===

impl Flow {
    /// How many were sent and ended in any way, each second.
    pub fn offered(&self) -> f64 {
        self.each_second(self.accepted.len() + self.refused.len() + self.odd.len())
    }

    /// How many of them were answered as asked, each second.
    pub fn carried(&self) -> f64 {
        self.each_second(self.accepted.len())
    }

    fn each_second(&self, count: usize) -> f64 {
        count as f64 / self.lasted.as_secs_f64()
    }

    /// Together with another one.
    pub fn add(&mut self, other: Self) {
        self.lasted += other.lasted;
        self.accepted.extend(other.accepted);
        self.refused.extend(other.refused);
        self.odd.extend(other.odd);
        self.late.extend(other.late);
        self.skipped += other.skipped;
    }
}

// === impl Prober ===

impl Prober {
    /// Begins.
    #[expect(clippy::disallowed_methods, reason = "it asks by the clock, in a thread that has nothing else to do")]
    pub fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let (mut heard, mut due) = (Vec::new(), Instant::now());
                while !stop.load(Ordering::Relaxed) {
                    heard.push(probe(address).map_err(|failure| failure.to_string()));
                    due = (due + EVERY).max(Instant::now());
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
                heard
            }
        });
        Self { stop, thread }
    }

    /// Ends, and gives what each question came to.
    pub fn stop(self) -> Vec<Result<Duration, String>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the prober does not panic")
    }
}

fn probe(address: SocketAddr) -> io::Result<Duration> {
    let begun = Instant::now();
    let mut stream = Blocking::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200 ") {
        return Ok(begun.elapsed());
    }
    Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned()))
}
