//! What stands in front of two colors: an address that stays while what is behind it changes. New connections go to the new
//! place, old ones stay where they are, as behind a Service or a balancer.

use std::net::SocketAddr;

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// A TCP port that leads to a server.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    target: watch::Sender<SocketAddr>,
}

impl Front {
    /// Leads to this server.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let target = watch::Sender::new(target);
        let seen = target.subscribe();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let target = *seen.borrow();
                tokio::spawn(async move {
                    // A server that is gone closes the connection, which is what its client would see.
                    if let Ok(mut server) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self { address, target }
    }

    /// Where clients come in.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The MCP endpoint.
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// Leads new connections somewhere else.
    pub fn switch(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }
}
