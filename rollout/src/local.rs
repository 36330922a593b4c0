//! The local platform: two colors as processes behind a front door, on this machine. What a kubelet and a Service are to a
//! cluster, in one process: it keeps as many replicas alive as are wanted, and leads the door to those that are ready.
//!
//! What must stay true: the colors outlive this process, and its next life takes them over; nobody is stopped while traffic
//! is meant for them, unless by name.
//!
//! ```text
//! <state>/local.json    where the door is, for `rollout` commands
//!         front.json    what share goes where
//!         front.secret  what operators bring, and the key of digests, for `rollout` commands of the same account
//!         colors.json   what is meant to run, and what runs
//!         blue-1.log    what a replica said
//! ```

mod doors;
mod process;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bg_runtime::Color;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

pub(crate) use self::process::born;
use self::process::{Process, State};
use crate::{
    driver::{self, DigestKey, Image, Replica},
    front::{Front, FrontConfig, FrontError, Routing, Switchboard},
    http::Http,
    operator_secret, share,
};

/// How the platform is set up.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// Where everything is kept.
    pub state: PathBuf,
    /// Where clients come in.
    pub listen: SocketAddr,
    /// Where operators come in.
    pub operations_listen: SocketAddr,
    /// The longest that a request waits while the door is held, or while nobody can be reached.
    pub patience: Duration,
}

/// What a color's processes are and should be.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Slot {
    pub(crate) image: Option<Image>,
    pub(crate) wanted: u32,
    /// Counts what was wanted: a process of an earlier one is not wanted any more.
    generation: u64,
    pub(crate) processes: Vec<Process>,
    /// How many have ended unasked since this was wanted, and the last one's words.
    crashes: u32,
    pub(crate) trouble: Option<String>,
    #[serde(skip)]
    not_before: Option<Instant>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Slots {
    blue: Slot,
    green: Slot,
}

/// Where a running platform is, as `<state>/local.json` says it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// Where clients come in.
    pub address: SocketAddr,
    /// Where operators come in.
    pub operations: SocketAddr,
}

/// A running platform. Dropping it closes the door; the colors run on.
#[derive(Debug)]
pub struct Local {
    front: Front,
    platform: Arc<Platform>,
    keeper: tokio::task::JoinHandle<()>,
    /// Held for as long as this lives: two that keep the same processes alive would stop each other's.
    _lock: std::fs::File,
}

#[derive(Debug)]
pub(crate) struct Platform {
    directory: PathBuf,
    switchboard: Arc<Switchboard>,
    slots: Mutex<Slots>,
    /// What was written last.
    written: Mutex<Vec<u8>>,
    /// Whether everything stops, to come back as it was.
    leaving: AtomicBool,
    changed: Notify,
    /// Of what is shown of the variables that images get.
    key: DigestKey,
    http: Http,
}

/// Why the platform does not start.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The door does not open.
    #[error(transparent)]
    Front(#[from] FrontError),
    /// Another one is at work.
    #[error("another `rollout local up` keeps {} already; `rollout status` says what it does", .0.display())]
    Taken(PathBuf),
    /// Its directory cannot be used.
    #[error("{} is not usable", path.display())]
    Directory {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// How often the platform looks at its processes.
const LOOK: Duration = Duration::from_millis(50);
/// After SIGTERM a process has this long: its drain deadline, and what comes after.
const STOPPED_WITHIN: Duration = Duration::from_secs(45);

// === impl Place ===

impl Place {
    /// The file that says it.
    #[must_use]
    pub fn file(state: &Path) -> PathBuf {
        state.join("local.json")
    }

    /// Where the platform of this directory is.
    ///
    /// # Errors
    /// When the file is not there, or is not one.
    pub fn read(state: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(Self::file(state))?)?)
    }
}

// === impl Local ===

impl Local {
    /// Starts it, or takes over what an earlier one left.
    ///
    /// # Errors
    /// See [`LocalError`].
    pub async fn up(config: LocalConfig) -> Result<Self, LocalError> {
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source| LocalError::Directory { path, source }
        };
        std::fs::create_dir_all(&config.state).map_err(unusable(&config.state))?;
        // Processes are started from anywhere and outlive us: their paths are whole.
        let directory = config.state.canonicalize().map_err(unusable(&config.state))?;
        let lock_file = directory.join("lock");
        let lock = std::fs::File::create(&lock_file).map_err(unusable(&lock_file))?;
        if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(LocalError::Taken(directory));
        }
        let key = directory.join(FORWARD_KEY);
        if !key.exists() {
            let secret = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()].map(|part| part.simple().to_string()).concat();
            write(&key, secret.as_bytes()).map_err(unusable(&key))?;
        }
        let colors = directory.join("colors.json");
        let slots = match std::fs::read(&colors) {
            Ok(text) => serde_json::from_slice(&text).map_err(io::Error::other).map_err(unusable(&colors))?,
            Err(absent) if absent.kind() == io::ErrorKind::NotFound => Slots::default(),
            Err(failure) => return Err(unusable(&colors)(failure)),
        };
        let config = FrontConfig {
            listen: config.listen,
            operations_listen: config.operations_listen,
            state: directory.join("front.json"),
            patience: config.patience,
        };
        let switchboard = Switchboard::open(config.state.clone(), Routing::default()).await.map_err(FrontError::from)?;
        let switchboard = Arc::new(switchboard);
        let secret = operator_secret::beside(&config.state);
        let key = DigestKey::new(operator_secret::keep(&secret).map_err(unusable(&secret))?);
        let platform = Arc::new(Platform {
            directory,
            switchboard: switchboard.clone(),
            slots: Mutex::new(slots),
            written: Mutex::default(),
            leaving: AtomicBool::new(false),
            changed: Notify::new(),
            key,
            http: Http::new(),
        });
        let front = Front::open_with(config, switchboard, doors::router(platform.clone())).await?;
        platform.look().await;
        let place = Place { address: front.address(), operations: front.operations_address() };
        let file = Place::file(&platform.directory);
        let text = serde_json::to_vec_pretty(&place).expect("a place serializes");
        write(&file, &text).map_err(unusable(&file))?;
        let keeper = tokio::spawn(platform.clone().keep());
        Ok(Self { front, platform, keeper, _lock: lock })
    }

    /// Where it is.
    pub fn place(&self) -> Place {
        Place { address: self.front.address(), operations: self.front.operations_address() }
    }

    /// Whether nothing is meant to run as the color that gets the traffic.
    pub fn is_empty(&self) -> bool {
        self.platform.slots().get(self.color()).wanted == 0
    }

    /// The color that gets the traffic, or most of it.
    pub fn color(&self) -> Color {
        share::most(self.platform.switchboard.seen().routing.green_percent)
    }

    /// What is meant to run as a color.
    pub fn image(&self, color: Color) -> Option<Image> {
        self.platform.slots().get(color).image.clone()
    }

    /// Lets this run as a color.
    pub fn run(&self, color: Color, image: Image, replicas: u32) {
        self.platform.want(color, Some(image), replicas);
    }

    /// Waits until a color has a ready replica; else the words of one that crashed.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub async fn ready(&self, color: Color, within: Duration) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            if !self.platform.switchboard.seen().routing.addresses(color).is_empty() {
                return Ok(());
            }
            let trouble = self.platform.slots().get(color).trouble.clone();
            match trouble {
                Some(trouble) if self.platform.slots().get(color).crashes > 2 => return Err(trouble),
                trouble if begun.elapsed() > within => {
                    return Err(trouble.unwrap_or_else(|| format!("no replica is ready after {within:?}")));
                }
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Stops both colors, with the time they need. The next life starts them as they were.
    pub async fn down(&self) {
        self.platform.leaving.store(true, Ordering::Relaxed);
        self.platform.changed.notify_one();
        loop {
            let gone = {
                let slots = self.platform.slots();
                slots.blue.processes.is_empty() && slots.green.processes.is_empty()
            };
            if gone {
                return self.platform.write();
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

// === impl Slots ===

impl Slots {
    pub(crate) fn get(&self, color: Color) -> &Slot {
        if color == Color::Blue { &self.blue } else { &self.green }
    }

    fn get_mut(&mut self, color: Color) -> &mut Slot {
        if color == Color::Blue { &mut self.blue } else { &mut self.green }
    }
}

// === impl Platform ===

impl Platform {
    pub(crate) fn slots(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.slots.lock().expect("nobody panics while holding the slots")
    }

    /// Changes what is meant to run.
    pub(crate) fn want(&self, color: Color, image: Option<Image>, replicas: u32) {
        let mut slots = self.slots();
        let slot = slots.get_mut(color);
        if slot.image != image {
            slot.generation += 1;
            slot.image = image;
            (slot.crashes, slot.trouble, slot.not_before) = (0, None, None);
        }
        slot.wanted = replicas;
        drop(slots);
        self.changed.notify_one();
    }

    async fn keep(self: Arc<Self>) {
        loop {
            let _ = tokio::time::timeout(LOOK, self.changed.notified()).await;
            self.look().await;
        }
    }

    /// Looks at the processes once, and does what is missing.
    async fn look(&self) {
        for color in [Color::Blue, Color::Green] {
            self.reconcile(color);
            // Before anything else is asked: a process that nobody knows of would stay for ever.
            self.write();
            self.lead(color).await;
        }
        self.write();
    }

    /// Writes down what is meant to run and what runs, if that is new.
    fn write(&self) {
        let slots = self.slots();
        let mut written = self.written.lock().expect("nobody panics while writing");
        let now = serde_json::to_vec_pretty(&*slots).expect("slots serialize");
        if now == *written {
            return;
        }
        match write(&self.directory.join("colors.json"), &now) {
            Ok(()) => *written = now,
            Err(failure) => tracing::error!(error = %failure, "what runs cannot be written down: {failure}"),
        }
    }

    /// Starts what is missing and stops what is too much.
    fn reconcile(&self, color: Color) {
        let mut slots = self.slots();
        let slot = slots.get_mut(color);
        let wanted = if self.leaving.load(Ordering::Relaxed) { 0 } else { slot.wanted as usize };
        let generation = slot.generation;
        let mut gone = Vec::new();
        slot.processes.retain_mut(|process| match process.look() {
            State::Alive => true,
            State::Gone(words) => {
                gone.push((process.generation == generation && process.told_to_stop.is_none(), words));
                false
            }
        });
        for (unasked, words) in gone {
            if unasked {
                slot.crashes += 1;
                tracing::warn!("{color} {words}");
                slot.trouble = Some(words);
                // As a kubelet does it, and sooner.
                slot.not_before = Some(Instant::now() + Duration::from_millis(100 << slot.crashes.min(6)));
            }
        }
        let mut kept = 0;
        for process in &mut slot.processes {
            if process.generation == generation && process.told_to_stop.is_none() && kept < wanted {
                kept += 1;
            } else {
                process.stop(STOPPED_WITHIN);
            }
        }
        let Some(image) = &slot.image else { return };
        if slot.not_before.is_some_and(|moment| Instant::now() < moment) {
            return;
        }
        for _ in kept..wanted {
            let number = (1..).find(|number| slot.processes.iter().all(|other| other.number != *number)).unwrap_or_default();
            match Process::start(color, number, image, generation, &self.directory) {
                Ok(process) => {
                    tracing::info!("{color} {number} is {} (process {})", image.name, process.pid);
                    slot.processes.push(process);
                }
                Err(failure) => {
                    slot.crashes += 1;
                    slot.trouble = Some(format!("{} cannot be started: {failure}", image.name));
                    slot.not_before = Some(Instant::now() + Duration::from_secs(1));
                    break;
                }
            }
        }
    }

    /// Leads the door to a color's replicas that are ready.
    async fn lead(&self, color: Color) {
        let is_wanted = self.slots().get(color).wanted > 0;
        // Those of a color that was stopped are on their way out, and nobody is led there.
        let mut replicas = if is_wanted { self.replicas(color) } else { Vec::new() };
        futures_util::future::join_all(replicas.iter_mut().map(|replica| driver::ask(&self.http, replica))).await;
        let lead = |fit: fn(&Replica) -> bool| -> Vec<SocketAddr> {
            let mut fit: Vec<_> =
                replicas.iter().filter(|replica| fit(replica)).flat_map(|replica| replica.address.parse()).collect();
            fit.sort_unstable();
            fit
        };
        let ready = lead(|replica| replica.ready && !replica.leaving);
        // Somebody who is leaving still answers; nobody does not.
        let addresses = if ready.is_empty() { lead(|replica| replica.ready || replica.leaving) } else { ready };
        let routing = self.switchboard.seen().routing;
        if addresses == routing.addresses(color) || addresses.is_empty() && routing.share(color) > 0 {
            return;
        }
        if let Err(failure) = self.switchboard.place(color, addresses).await {
            tracing::error!(error = %failure, "the door cannot be led to {color}: {failure}");
        }
    }

    /// A color's processes that have said where they listen.
    pub(crate) fn replicas(&self, color: Color) -> Vec<Replica> {
        let mut slots = self.slots();
        let slot = slots.get_mut(color);
        let generation = slot.generation;
        let of = |process: &mut Process| {
            let (address, operations) = process.addresses()?;
            Some(Replica {
                name: format!("{color}-{}", process.number),
                address: address.to_string(),
                operations: operations.to_string(),
                ready: false,
                build: None,
                leaving: process.told_to_stop.is_some() || process.generation != generation,
            })
        };
        slot.processes.iter_mut().filter_map(of).collect()
    }
}

/// Whole, or as it was.
fn write(file: &Path, text: &[u8]) -> io::Result<()> {
    let new = file.with_extension("new");
    // What an image is told may be secret.
    let mut written = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    written.write_all(text)?;
    std::fs::rename(new, file)
}

/// The file with the key that the replicas of both colors prove themselves with to each other.
const FORWARD_KEY: &str = "forward.key";

/// What a replica is told beside what its image is told: who and where it is.
fn environment(color: Color, image: &Image, directory: &Path) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::from([
        ("RELEASE_COLOR".to_owned(), color.to_string()),
        ("LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
        ("OPERATIONS_LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
    ]);
    if let Ok(key) = std::fs::read_to_string(directory.join(FORWARD_KEY)) {
        variables.insert("FORWARD_KEY".to_owned(), key);
    }
    if let Some(directory) = directory.join("database").to_str() {
        variables.insert("DATA_DIR".to_owned(), directory.to_owned());
    }
    variables.extend(image.environment.clone());
    variables
}
