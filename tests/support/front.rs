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
    /// How many connections there are that their server has not closed, or whose client has not been sent that it did.
    open: watch::Sender<HashMap<SocketAddr, usize>>,
}

impl Front {
    /// Leads to this server.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let target = watch::Sender::new(target);
        let (led, open) = (watch::Sender::default(), watch::Sender::default());
        let (seen, counted, opened) = (target.subscribe(), led.clone(), open.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (target, counted, opened) = (*seen.borrow(), counted.clone(), opened.clone());
                counted.send_modify(|led: &mut HashMap<_, _>| *led.entry(target).or_default() += 1);
                opened.send_modify(|open: &mut HashMap<_, _>| *open.entry(target).or_default() += 1);
                tokio::spawn(async move {
                    lead(client, target, || opened.send_modify(|open| *open.entry(target).or_default() -= 1)).await;
                    counted.send_modify(|led| *led.entry(target).or_default() -= 1);
                });
            }
        });
        Self { address, target, led, open }
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

    /// Waits until every client of a server that is gone was sent the end of its connection. Clients that only look at a
    /// connection before they use it again, as those in Python do, keep their side of it open until then.
    pub async fn closed(&self, gone: SocketAddr) {
        let mut open = self.open.subscribe();
        open.wait_for(|open| open.get(&gone).is_none_or(|count| *count == 0)).await.expect("the front is there");
    }
}

/// Until both sides have closed. A server that is gone closes the connection, which is what its client would see; `ended` is
/// called when the client was sent that.
async fn lead(mut client: TcpStream, target: SocketAddr, ended: impl FnOnce()) {
    if let Ok(mut server) = TcpStream::connect(target).await {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let up = async {
            let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
            let _ = to_server.shutdown().await;
        };
        let down = async {
            let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
            let _ = to_client.shutdown().await;
            ended();
        };
        tokio::join!(up, down);
    } else {
        let _ = client.shutdown().await;
        ended();
    }
    let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
}
