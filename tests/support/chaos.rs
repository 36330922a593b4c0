//! A network between the server and PostgreSQL that can be cut, stalled and restored.

use std::{net::SocketAddr, path::PathBuf};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
};

/// What the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Bytes pass.
    Open,
    /// Bytes are swallowed into silence, and new connections wait.
    Stalled,
    /// Connections are closed, and new ones too.
    Cut,
}

/// A TCP port that leads to a Unix socket.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    network: watch::Sender<Network>,
}

impl Proxy {
    /// Leads to this socket, once the network is open.
    pub async fn start(socket: PathBuf, network: Network) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let network = watch::Sender::new(network);
        let seen = network.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, socket.clone(), seen.clone()));
            }
        });
        Self { address, network }
    }

    /// For `DATABASE_URL`.
    pub fn url(&self) -> String {
        format!("postgresql://mcp@{}/postgres?sslmode=disable", self.address)
    }

    /// Changes the network.
    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }
}

async fn pass(mut client: TcpStream, socket: PathBuf, mut network: watch::Receiver<Network>) {
    let settled = network.wait_for(|network| *network != Network::Stalled).await.map(|network| *network);
    if !matches!(settled, Ok(Network::Open)) {
        return;
    }
    let Ok(mut server) = UnixStream::connect(socket).await else { return };
    let (mut up, mut down) = ([0; 16 * 1024], [0; 16 * 1024]);
    loop {
        let state = *network.borrow_and_update();
        if state == Network::Cut {
            return;
        }
        let open = state == Network::Open;
        tokio::select! {
            changed = network.changed() => if changed.is_err() { return },
            read = client.read(&mut up), if open => match read {
                Ok(read) if read > 0 => if server.write_all(&up[..read]).await.is_err() { return },
                _ => return,
            },
            read = server.read(&mut down), if open => match read {
                Ok(read) if read > 0 => if client.write_all(&down[..read]).await.is_err() { return },
                _ => return,
            },
        }
    }
}
