//! What stands in front of two colors: an address that stays while what is behind it changes. New connections go to the new
//! place, old ones stay where they are, as behind a Service or a balancer.

use std::{collections::HashMap, net::SocketAddr};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// A TCP port that leads to a server.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    target: watch::Sender<SocketAddr>,
    /// How many connections lead where.
    led: watch::Sender<HashMap<SocketAddr, usize>>,
}

impl Front {
    /// Leads to this server.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let target = watch::Sender::new(target);
        let led = watch::Sender::default();
        let (seen, counted) = (target.subscribe(), led.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (target, counted) = (*seen.borrow(), counted.clone());
                counted.send_modify(|led: &mut HashMap<_, _>| *led.entry(target).or_default() += 1);
                tokio::spawn(async move {
                    lead(client, target).await;
                    counted.send_modify(|led| *led.entry(target).or_default() -= 1);
                });
            }
        });
        Self { address, target, led }
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

    /// Waits until no connection leads to a server that is gone, which is when its clients know that it is: whoever writes on a
    /// connection that was closed a moment ago cannot tell whether the server read it, and may not write it again.
    pub async fn left(&self, gone: SocketAddr) {
        let mut led = self.led.subscribe();
        led.wait_for(|led| led.get(&gone).is_none_or(|count| *count == 0)).await.expect("the front is there");
    }
}

/// Until both sides have closed. A server that is gone closes the connection, which is what its client would see.
async fn lead(mut client: TcpStream, target: SocketAddr) {
    if let Ok(mut server) = TcpStream::connect(target).await {
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }
    let _ = client.shutdown().await;
    let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
}
