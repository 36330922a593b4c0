//! The front door of the local platform: one address in front of two colors, of which one is live.
//!
//! What must stay true: every request goes to the color that was live when it was let in, and none is let in to a color
//! after the door has said that it switched. A request that reached nobody is made again while its client waits; one that
//! may have reached somebody never is, unless it only reads.
//!
//! ```text
//! client ── listener ── proxy ── switchboard.enter() ─▶ Claim{color, address} ── that color
//! operator ── operations ── switchboard.switch(green) ── routing.json
//! ```

pub(crate) mod operations;
mod proxy;
mod switchboard;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
};

pub use self::switchboard::{InFlight, Routing, Seen, Switchboard, SwitchboardError};
use crate::operator_secret;

/// How a front door is set up.
#[derive(Clone, Debug)]
pub struct FrontConfig {
    /// Where clients come in.
    pub listen: SocketAddr,
    /// Where operators come in, with the secret that is kept beside the routing. Never public all the same.
    pub operations_listen: SocketAddr,
    /// Where the routing is kept, so that the next life of the door begins where this one ended.
    pub state: PathBuf,
    /// The longest that a request waits while the door is held, or while nobody of its color can be reached.
    pub patience: Duration,
}

/// Why a front door does not open.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// A port cannot be opened.
    #[error("cannot listen on {address}; is another process there?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The secret of its operators cannot be kept.
    #[error("the secret of operators cannot be kept in {}", path.display())]
    Secret {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The routing cannot be kept.
    #[error(transparent)]
    Switchboard(#[from] SwitchboardError),
}

/// A front door that is open. Dropping it closes it.
#[derive(Debug)]
pub struct Front {
    switchboard: Arc<Switchboard>,
    address: SocketAddr,
    operations: SocketAddr,
    tasks: [JoinHandle<()>; 2],
}

/// How many connections the kernel keeps for us that we have not taken yet, as far as `net.core.somaxconn` lets it: all clients
/// may come at one moment.
const BACKLOG: u32 = 4096;

// === impl Front ===

impl Front {
    /// Opens the door. `first` is where the colors are if this is the door's first life; otherwise it is what the file says.
    ///
    /// # Errors
    /// See [`FrontError`].
    pub async fn open(config: FrontConfig, first: Routing) -> Result<Self, FrontError> {
        let switchboard = Arc::new(Switchboard::open(config.state.clone(), first).await?);
        Self::open_with(config, switchboard, axum::Router::new()).await
    }

    /// Opens it with further doors for operators.
    pub(crate) async fn open_with(
        config: FrontConfig,
        switchboard: Arc<Switchboard>,
        doors: axum::Router,
    ) -> Result<Self, FrontError> {
        let path = operator_secret::beside(&config.state);
        let secret = operator_secret::keep(&path).map_err(|source| FrontError::Secret { path, source })?;
        let bind = |address| listen(address).map_err(|source| FrontError::Listen { address, source });
        let (address, clients) = bind(config.listen)?;
        let (operations, operators) = bind(config.operations_listen)?;
        let tasks = [
            tokio::spawn(proxy::serve(clients, switchboard.clone(), config.patience)),
            tokio::spawn(operations::serve(operators, operations::router(switchboard.clone()).merge(doors), secret)),
        ];
        Ok(Self { switchboard, address, operations, tasks })
    }

    /// Where clients come in.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where operators come in.
    pub fn operations_address(&self) -> SocketAddr {
        self.operations
    }

    /// What decides where requests go.
    pub fn switchboard(&self) -> &Switchboard {
        &self.switchboard
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Opens a port; port 0 takes a free one.
fn listen(address: SocketAddr) -> io::Result<(SocketAddr, TcpListener)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let socket = socket.listen(BACKLOG)?;
    Ok((socket.local_addr()?, socket))
}
