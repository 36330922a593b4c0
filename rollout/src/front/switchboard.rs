//! Which color is live, where both are, and what is in flight to each: one value in one watch channel, so that letting a
//! request in and switching are one after the other, and "switched and empty" is one observation.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bg_runtime::Color;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};

use crate::share;

/// Where requests go. This is what the door remembers from one life to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Routing {
    /// How many of a hundred requests that name no color go to green; the others go to blue. 0 and 100 are what a switch
    /// makes, and what lies between is a step on the way.
    pub green_percent: u8,
    /// Where blue's replicas are.
    pub blue: Vec<SocketAddr>,
    /// Where green's replicas are.
    pub green: Vec<SocketAddr>,
    /// Of the last rollout that moved traffic. One that comes with a smaller number has lost its lease meanwhile.
    #[serde(default)]
    pub epoch: i64,
    /// The color that had all traffic before the last move away from it: where going back leads. Nothing once it was gone
    /// back to, or when something else runs there.
    #[serde(default)]
    pub before: Option<Color>,
}

/// The switchboard at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// Where requests go.
    #[serde(flatten)]
    pub routing: Routing,
    /// Whether new requests wait.
    pub held: bool,
    /// Requests whose answers have not left whole: blue's and green's.
    pub in_flight: InFlight,
}

/// Requests in flight to each color. Streams count as long as they are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlight {
    /// To blue.
    pub blue: usize,
    /// To green.
    pub green: usize,
}

/// Why the routing was not changed. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum SwitchboardError {
    /// It cannot be read or written.
    #[error("the routing cannot be kept in {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It was written by somebody else.
    #[error("{} is not a routing; remove it to begin anew", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Nobody would answer.
    #[error("nobody is known to be {0}: say first where it is")]
    Nowhere(Color),
    /// Another rollout moved the traffic since.
    #[error("a later rollout moves the traffic (epoch {now}, yours is {yours})")]
    Late {
        /// The epoch that was named.
        yours: i64,
        /// The epoch of the last move.
        now: i64,
    },
    /// It is not the next one, nor one of the next million.
    #[error("{0} is no epoch that follows the last one")]
    Epoch(i64),
    /// Nobody would answer, or somebody else than was proved.
    #[error("{share} of a hundred requests go to {color}: move them first")]
    Busy {
        /// The color.
        color: Color,
        /// How many go there.
        share: u8,
    },
    /// There are a hundred in a hundred.
    #[error("{0} is no share: say 0 to 100")]
    Share(u8),
}

/// A request that was let in. Dropping it is its end.
#[derive(Debug)]
pub(crate) struct Claim {
    switchboard: Arc<Switchboard>,
    /// Whose it is.
    pub(crate) color: Color,
    /// Where that color is.
    pub(crate) address: SocketAddr,
}

/// Decides where requests go.
#[derive(Debug)]
pub struct Switchboard {
    seen: watch::Sender<Seen>,
    file: PathBuf,
    /// Changes are made one after the other. Requests do not wait for it.
    changing: Mutex<()>,
    /// Deals requests out: between the colors by weight, and among a color's replicas in turn.
    deal: std::sync::Mutex<Deal>,
}

/// What has been dealt out so far.
#[derive(Debug, Default)]
struct Deal {
    /// Hundredths that green is owed.
    owed: u8,
    /// Whose turn it is, of blue's replicas and of green's.
    turns: [usize; 2],
}

/// An epoch counts who held a lease. One that is this far ahead was never given to anybody, and would shut all others out.
const MOST_AHEAD: i64 = 1_000_000_000;

// === impl Routing ===

impl Routing {
    /// The color that answers every request that names none; `None` while two do.
    pub fn live(&self) -> Option<Color> {
        share::live(self.green_percent)
    }

    /// How many of a hundred requests go to a color.
    pub fn share(&self, color: Color) -> u8 {
        share::of(color, self.green_percent)
    }

    /// Where a color's replicas are.
    pub fn addresses(&self, color: Color) -> &[SocketAddr] {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }

    fn raise(&mut self, epoch: Option<i64>) -> Result<(), SwitchboardError> {
        let Some(yours) = epoch else { return Ok(()) };
        match yours.checked_sub(self.epoch) {
            Some(ahead) if ahead < 0 => return Err(SwitchboardError::Late { yours, now: self.epoch }),
            Some(ahead) if ahead < MOST_AHEAD => self.epoch = yours,
            _ => return Err(SwitchboardError::Epoch(yours)),
        }
        Ok(())
    }

    fn addresses_mut(&mut self, color: Color) -> &mut Vec<SocketAddr> {
        match color {
            Color::Blue => &mut self.blue,
            Color::Green => &mut self.green,
        }
    }
}

// === impl Deal ===

impl Deal {
    /// The next request's color: `percent` of a hundred are green's, as evenly as can be.
    fn color(&mut self, percent: u8) -> Color {
        self.owed += percent;
        if self.owed < 100 {
            return Color::Blue;
        }
        self.owed -= 100;
        Color::Green
    }

    fn replica(&mut self, color: Color, addresses: &[SocketAddr]) -> Option<SocketAddr> {
        let turn = &mut self.turns[usize::from(color == Color::Green)];
        *turn = turn.wrapping_add(1);
        addresses.get(turn.checked_rem(addresses.len())?).copied()
    }
}

// === impl InFlight ===

impl InFlight {
    /// To one color.
    pub fn to(&self, color: Color) -> usize {
        match color {
            Color::Blue => self.blue,
            Color::Green => self.green,
        }
    }

    fn to_mut(&mut self, color: Color) -> &mut usize {
        match color {
            Color::Blue => &mut self.blue,
            Color::Green => &mut self.green,
        }
    }
}

// === impl Switchboard ===

impl Switchboard {
    /// With the routing that the file says, or with `first`, which is then written.
    pub(crate) async fn open(file: PathBuf, first: Routing) -> Result<Self, SwitchboardError> {
        let routing = match tokio::fs::read(&file).await {
            Ok(text) => {
                serde_json::from_slice(&text).map_err(|source| SwitchboardError::Unreadable { path: file.clone(), source })?
            }
            Err(absent) if absent.kind() == io::ErrorKind::NotFound => first,
            Err(source) => return Err(SwitchboardError::File { path: file, source }),
        };
        let seen = watch::Sender::new(Seen { routing, held: false, in_flight: InFlight::default() });
        let switchboard = Self { seen, file, changing: Mutex::default(), deal: std::sync::Mutex::default() };
        let routing = switchboard.seen().routing;
        keep(&switchboard.file, &routing).await?;
        Ok(switchboard)
    }

    /// The switchboard now.
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Lets a request in: to the color it names, else to the live one. A held door lets it wait, `patience` at most.
    pub(crate) async fn enter(self: &Arc<Self>, named: Option<Color>, patience: Duration) -> Option<Claim> {
        if self.seen.borrow().held && named.is_none() {
            let mut seen = self.seen.subscribe();
            // Held for longer than that is not held: a client that waits in vain is worse off than one that is answered.
            let _ = tokio::time::timeout(patience, seen.wait_for(|seen| !seen.held)).await;
        }
        let mut claim = None;
        self.seen.send_if_modified(|seen| {
            let mut deal = self.deal.lock().expect("nobody panics while dealing");
            let color = named.unwrap_or_else(|| deal.color(seen.routing.green_percent));
            if let Some(address) = deal.replica(color, seen.routing.addresses(color)) {
                *seen.in_flight.to_mut(color) += 1;
                claim = Some(Claim { switchboard: self.clone(), color, address });
            }
            false
        });
        claim
    }

    /// Makes a color the live one. When it returns, every new request goes there, in this life of the door and the next.
    ///
    /// # Errors
    /// See [`SwitchboardError`]; the other color is live then as before.
    pub async fn switch(&self, to: Color, epoch: Option<i64>) -> Result<Seen, SwitchboardError> {
        self.shift(share::of(to, 100), epoch).await
    }

    /// Lets this many of a hundred requests go to green. `epoch` is that of the rollout that asks; a person needs none.
    ///
    /// # Errors
    /// See [`SwitchboardError`]; the traffic goes then where it went.
    pub async fn shift(&self, green_percent: u8, epoch: Option<i64>) -> Result<Seen, SwitchboardError> {
        if green_percent > 100 {
            return Err(SwitchboardError::Share(green_percent));
        }
        self.change(|routing| {
            routing.raise(epoch)?;
            let was = routing.live().filter(|_| routing.green_percent != green_percent);
            routing.green_percent = green_percent;
            if routing.live().is_some() && routing.live() == routing.before {
                // Gone back: whoever asks again to go back is not led forth.
                routing.before = None;
            } else if was.is_some() {
                routing.before = was;
            }
            for color in [Color::Blue, Color::Green] {
                if routing.share(color) > 0 && routing.addresses(color).is_empty() {
                    return Err(SwitchboardError::Nowhere(color));
                }
            }
            Ok(())
        })
        .await
    }

    /// Lets no rollout with a smaller epoch move anything from now on.
    ///
    /// # Errors
    /// See [`SwitchboardError`].
    pub async fn fence(&self, epoch: i64) -> Result<Seen, SwitchboardError> {
        self.change(|routing| routing.raise(Some(epoch))).await
    }

    /// Changes what runs as a color while no traffic goes there, and none can be moved there meanwhile. Nobody is there
    /// afterwards until [`place`](Self::place) says so, and going back does not lead there.
    pub(crate) async fn replace(
        &self,
        color: Color,
        epoch: Option<i64>,
        change: impl FnOnce(),
    ) -> Result<Seen, SwitchboardError> {
        self.change(|routing| {
            routing.raise(epoch)?;
            let share = routing.share(color);
            // A color that nobody is cannot be pushed over.
            if share > 0 && !routing.addresses(color).is_empty() {
                return Err(SwitchboardError::Busy { color, share });
            }
            routing.addresses_mut(color).clear();
            routing.before = routing.before.filter(|before| *before != color);
            change();
            Ok(())
        })
        .await
    }

    /// Says where a color's replicas are from now on. A color that gets traffic is somewhere.
    ///
    /// # Errors
    /// See [`SwitchboardError`].
    pub async fn place(&self, color: Color, addresses: Vec<SocketAddr>) -> Result<Seen, SwitchboardError> {
        self.change(|routing| {
            if addresses.is_empty() && routing.share(color) > 0 && !routing.addresses(color).is_empty() {
                return Err(SwitchboardError::Nowhere(color));
            }
            *routing.addresses_mut(color) = addresses;
            Ok(())
        })
        .await
    }

    /// Lets new requests wait until [`release`](Self::release), each for as long as it has patience.
    pub fn hold(&self) -> Seen {
        self.seen.send_modify(|seen| seen.held = true);
        self.seen()
    }

    /// Lets those go that wait.
    pub fn release(&self) -> Seen {
        self.seen.send_modify(|seen| seen.held = false);
        self.seen()
    }

    /// Waits until nothing is in flight to a color.
    pub async fn drained(&self, color: Color) {
        let mut seen = self.seen.subscribe();
        // The sender is in self.
        let _ = seen.wait_for(|seen| seen.in_flight.to(color) == 0).await;
    }

    async fn change(&self, change: impl FnOnce(&mut Routing) -> Result<(), SwitchboardError>) -> Result<Seen, SwitchboardError> {
        let _one_at_a_time = self.changing.lock().await;
        let before = self.seen().routing;
        let mut routing = before.clone();
        change(&mut routing)?;
        if routing != before {
            // Written first: a door that dies in between comes back as it was told to be.
            keep(&self.file, &routing).await?;
            let moved = routing.green_percent != before.green_percent;
            if moved {
                tracing::info!("{} of a hundred requests go to green, it was {}", routing.green_percent, before.green_percent);
            }
            self.seen.send_modify(|seen| seen.routing = routing);
        }
        Ok(self.seen())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.switchboard.seen.send_if_modified(|seen| {
            *seen.in_flight.to_mut(self.color) -= 1;
            // Nobody waits for less than nothing in flight.
            seen.in_flight.to(self.color) == 0
        });
    }
}

/// Writes the routing so that whoever reads it finds this one or the one before, and nothing between.
async fn keep(file: &Path, routing: &Routing) -> Result<(), SwitchboardError> {
    let text = serde_json::to_vec(routing).expect("a routing serializes");
    let new = file.with_extension("new");
    let write = async {
        tokio::fs::write(&new, text).await?;
        tokio::fs::File::open(&new).await?.sync_all().await?;
        tokio::fs::rename(&new, file).await
    };
    write.await.map_err(|source| SwitchboardError::File { path: file.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> PathBuf {
        let unique = format!("front-{name}-{}.json", std::process::id());
        let file = std::env::temp_dir().join(unique);
        let _ = std::fs::remove_file(&file);
        file
    }

    fn routing() -> Routing {
        let at = |port| vec![SocketAddr::from(([127, 0, 0, 1], port))];
        Routing { green_percent: 0, blue: at(1), green: at(2), epoch: 0, before: None }
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_request_goes_where_it_was_let_in_and_the_next_one_where_the_door_was_switched() {
        let board = Arc::new(Switchboard::open(file("switch"), routing()).await.unwrap());
        let old = board.enter(None, LONG).await.unwrap();
        assert_eq!(board.switch(Color::Green, None).await.unwrap().in_flight, InFlight { blue: 1, green: 0 });
        let new = board.enter(None, LONG).await.unwrap();
        assert_eq!((old.color, new.color), (Color::Blue, Color::Green));
        assert_eq!(board.enter(Some(Color::Blue), LONG).await.unwrap().color, Color::Blue);
        let drained = tokio::spawn({
            let board = board.clone();
            async move { board.drained(Color::Blue).await }
        });
        drop(old);
        drained.await.unwrap();
        assert_eq!(board.seen().in_flight, InFlight { blue: 0, green: 1 });
    }

    #[tokio::test]
    async fn the_next_life_begins_where_this_one_ended() {
        let file = file("life");
        let board = Switchboard::open(file.clone(), routing()).await.unwrap();
        board.switch(Color::Green, None).await.unwrap();
        board.place(Color::Blue, vec![]).await.unwrap();
        assert!(matches!(board.switch(Color::Blue, None).await, Err(SwitchboardError::Nowhere(Color::Blue))));
        assert!(matches!(board.place(Color::Green, vec![]).await, Err(SwitchboardError::Nowhere(Color::Green))));
        let routing = Switchboard::open(file.clone(), routing()).await.unwrap().seen().routing;
        assert_eq!((routing.live(), &*routing.blue), (Some(Color::Green), &[][..]));
        std::fs::write(&file, "{").unwrap();
        assert!(matches!(Switchboard::open(file, routing).await, Err(SwitchboardError::Unreadable { .. })));
    }

    #[tokio::test]
    async fn a_share_is_dealt_out_evenly_and_a_late_rollout_is_refused() {
        let board = Arc::new(Switchboard::open(file("share"), routing()).await.unwrap());
        board.shift(10, Some(7)).await.unwrap();
        let mut of_ten = [0; 10];
        for turn in 0..100 {
            of_ten[turn / 10] += usize::from(board.enter(None, LONG).await.unwrap().color == Color::Green);
        }
        assert_eq!(of_ten, [1; 10]);
        assert!(matches!(board.switch(Color::Blue, Some(6)).await, Err(SwitchboardError::Late { yours: 6, now: 7 })));
        assert!(matches!(board.shift(101, None).await, Err(SwitchboardError::Share(101))));
        assert_eq!(board.seen().routing.green_percent, 10);
        // A color's replicas take turns.
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        board.place(Color::Blue, vec![at(1), at(3)]).await.unwrap();
        board.switch(Color::Blue, Some(7)).await.unwrap();
        let (one, other) = (board.enter(None, LONG).await.unwrap().address, board.enter(None, LONG).await.unwrap().address);
        assert_ne!(one, other);
    }

    #[tokio::test]
    async fn going_back_leads_to_whoever_was_live_and_not_to_whoever_is_there_now() {
        let board = Switchboard::open(file("before"), routing()).await.unwrap();
        let before = || board.seen().routing.before;
        board.shift(10, Some(1)).await.unwrap();
        board.shift(100, Some(1)).await.unwrap();
        assert_eq!(before(), Some(Color::Blue));
        board.switch(Color::Blue, Some(2)).await.unwrap();
        assert_eq!(before(), None, "going back twice is going back once");
        board.switch(Color::Green, Some(3)).await.unwrap();
        assert_eq!(before(), Some(Color::Blue));
        assert!(matches!(board.replace(Color::Green, Some(3), || {}).await, Err(SwitchboardError::Busy { share: 100, .. })));
        board.replace(Color::Blue, Some(3), || {}).await.unwrap();
        assert_eq!((before(), board.seen().routing.blue), (None, vec![]));

        board.fence(9).await.unwrap();
        assert!(matches!(board.shift(0, Some(8)).await, Err(SwitchboardError::Late { yours: 8, now: 9 })));
        assert!(matches!(board.fence(i64::MAX).await, Err(SwitchboardError::Epoch(i64::MAX))));
        assert!(board.fence(i64::MIN).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_request_waits_and_not_for_ever() {
        let board = Arc::new(Switchboard::open(file("hold"), routing()).await.unwrap());
        board.hold();
        let begun = tokio::time::Instant::now();
        let entered = tokio::join!(board.enter(None, LONG), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            board.switch(Color::Green, None).await.unwrap();
            board.release();
        });
        assert_eq!(entered.0.unwrap().color, Color::Green);
        assert!(begun.elapsed() < LONG);
        board.hold();
        let begun = tokio::time::Instant::now();
        assert!(board.enter(None, LONG).await.is_some());
        assert_eq!(begun.elapsed(), LONG);
        // Whoever names a color tests it, and does not wait for the others.
        assert!(board.enter(Some(Color::Blue), LONG).await.is_some());
        assert_eq!(begun.elapsed(), LONG);
    }
}
